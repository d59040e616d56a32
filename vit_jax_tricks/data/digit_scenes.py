"""`digit_scenes`: find and read the one whole digit in a cluttered photograph.

Composed from scikit-learn's hand-written digits and its two sample photographs:
china.jpg by danielbuechele (https://www.flickr.com/photos/danielbuechele/6061409035/)
and flower.jpg (https://www.flickr.com/photos/vultilion/6056698931/, credited by
scikit-learn's README to danielbuechele), both under CC BY 2.0, here cropped, scaled,
recoloured and drawn over. Train and test share neither digits nor photo regions.
"""

import concurrent.futures
import dataclasses

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vit_jax_tricks.data import digits, scene_art
from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.data.scene_art import Difficulty
from vit_jax_tricks.typing import UInt8


VERSION = "1.0.0"  # raise it when a pixel changes, or old records stay in use
SEED = 2026
JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Scene:
    """One example: the picture, its class, the mask of the digit's ink, a caption."""

    image: UInt8[np.ndarray, "s s 3"]
    label: int
    mask: UInt8[np.ndarray, "s s"]
    caption: str


@dataclasses.dataclass(kw_only=True)
class SceneConfig(tfds.core.BuilderConfig):
    """Side in pixels, number of examples and difficulty."""

    size: int
    train: int = 20_000
    test: int = 4_000
    difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)


CONFIGS = [
    SceneConfig(name="64", description="64x64, the benchmark.", size=64),
    SceneConfig(
        name="32",
        description="32x32, fewer and easier: two minutes on two CPU cores.",
        size=32,
        train=8_000,
        test=2_000,
        difficulty=Difficulty(fragments=(1, 3), noise=(0.0, 6.0)),
    ),
    SceneConfig(name="224", description="224x224.", size=224),
]


def scene(index: int, split: str, size: int, difficulty: Difficulty) -> Scene:
    """Draws scene number `index` of a split, the same whatever was drawn before.

    Labels follow index % 10, so that classes are balanced.
    """
    rng = np.random.default_rng((SEED, split == "test", index))
    label = index % 10
    where, canvas = scene_art.background(rng, size, split, difficulty)
    scale = rng.uniform(*difficulty.scale)
    angle = rng.uniform(-difficulty.rotation, difficulty.rotation)
    stretch = rng.uniform(0.85, 1.25)
    across = np.array([0.8 * stretch, 1.0])  # width and height of a unit-height digit
    cos, sin = np.cos(np.radians(angle)), abs(np.sin(np.radians(angle)))
    reach = np.minimum(0.5 * scale * (cos * across + sin * across[::-1]) + 0.02, 0.5)
    centre = rng.uniform(reach, 1 - reach)
    members = digits.split()[split]
    members = members[digits.glyphs()[1][members] == label]
    field = scene_art.fields()[members[rng.integers(len(members))]]
    place, alpha = scene_art.stamp(
        field, size, tuple(centre * size), scale * size, angle, stretch
    )
    colour = scene_art.ink_colour(rng, scene_art.brightness(canvas[place]), difficulty)
    scene_art.scatter(rng, canvas, split, difficulty, centre, scale, colour)
    scene_art.paint(canvas, place, alpha, colour)
    noise = rng.uniform(*difficulty.noise)
    canvas = cv2.scaleAdd(scene_art.grain(rng, size), noise, canvas)
    mask = np.zeros((size, size), np.uint8)
    mask[place] = alpha > 0.5
    text = scene_art.caption(label, colour, centre, scale, where)
    image = cv2.add(canvas, np.zeros(4), dtype=cv2.CV_8U)  # rounds and saturates
    return Scene(image, label, mask, text)


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Records: `image`, `label`, `mask` (0/1, 1 on the digit's ink), `caption`."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._scene_config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), encoding_format=self._encoding
                    ),
                    "label": tfds.features.ClassLabel(names=digits.WORDS),
                    "mask": tfds.features.Image(
                        shape=(size, size, 1), encoding_format="png"
                    ),
                    "caption": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    @property
    def _scene_config(self) -> SceneConfig:
        assert isinstance(self.builder_config, SceneConfig)
        return self.builder_config

    @property
    def _encoding(self) -> str:
        """PNG for small sizes, JPEG above: 224 stays below a gigabyte."""
        return "png" if self._scene_config.size <= 64 else "jpeg"

    def _split_generators(self, dl_manager):
        del dl_manager
        return {name: self._generate_examples(name) for name in ("train", "test")}

    def _generate_examples(self, name):
        config = self._scene_config
        count = getattr(config, name)

        def record(index: int) -> tuple[int, dict]:
            drawn = scene(index, name, config.size, config.difficulty)
            return index, {
                "image": encode(drawn.image[..., ::-1], self._encoding),
                "label": drawn.label,
                "mask": encode(drawn.mask, "png"),
                "caption": drawn.caption,
            }

        title = f"digit_scenes/{config.name} {name}"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            chunks = (range(i, min(i + 256, count)) for i in range(0, count, 256))
            records = (pair for chunk in chunks for pair in pool.map(record, chunk))
            yield from progress(records, count, title)


def encode(image: np.ndarray, encoding: str) -> bytes:
    """Encodes a grey or BGR picture as PNG or JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if encoding == "jpeg" else []
    return cv2.imencode(f".{encoding}", image, options)[1].tobytes()

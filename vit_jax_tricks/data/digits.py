"""The 1,797 hand-written digits that come with scikit-learn, as a TFDS builder.

8x8 grey images by 43 writers; E. Alpaydin, C. Kaynak (1998), Optical Recognition of
Handwritten Digits, UCI Machine Learning Repository, doi:10.24432/C50P49. scikit-learn's
copy is the test part of that set.
"""

import functools

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from vit_jax_tricks.typing import Int, UInt8


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEST_FRACTION = 0.2
SEED = 0


@functools.cache
def glyphs() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, "1797"]]:
    """All digits, with their 17 grey levels scaled to 0..255, and their labels."""
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(levels, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    return images, np.asarray(labels, np.int32)


@functools.cache
def split() -> dict[str, Int[np.ndarray, "n"]]:
    """Indices of the digits in `train` and `test`, a fifth of each class; seeded."""
    _, labels = glyphs()
    rng = np.random.default_rng(SEED)
    train, test = [], []
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(len(members) * TEST_FRACTION)
        test.append(members[:count])
        train.append(members[count:])
    return {
        "train": np.sort(np.concatenate(train)).astype(np.int32),
        "test": np.sort(np.concatenate(test)).astype(np.int32),
    }


class Digits(tfds.core.GeneratorBasedBuilder):
    """Records: `image` (8x8x1 PNG), `label`, `id` (the row in scikit-learn's set)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The hand-written digits of scikit-learn, split by class.",
            homepage="https://doi.org/10.24432/C50P49",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=WORDS),
                    "id": tfds.features.Scalar(np.int32),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {name: self._generate_examples(name) for name in split()}

    def _generate_examples(self, name):
        images, labels = glyphs()
        for i in split()[name].tolist():
            image = PIL.Image.fromarray(images[i])
            yield i, {"image": image, "label": int(labels[i]), "id": i}

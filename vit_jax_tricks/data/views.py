"""Crops of a picture that the model sees, in training and in evaluation."""

import dataclasses

import numpy as np

from vit_jax_tricks.data import decode
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Float, UInt8


# Pixels, and the part of the picture that they show: (top, left, height, width) in
# fractions of its sides.
Seen = tuple[UInt8[np.ndarray, "h w c"], Float[np.ndarray, "4"]]
CROPS = ("random_resized", "center", "squash", "whole")


@dataclasses.dataclass(frozen=True)
class View:
    """Decodes bytes to uint8 pictures of `size` (height, width)."""

    size: tuple[int, int]
    channels: int
    train_crop: str
    crop_pct: float
    resize: str
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        (low, high), (narrow, wide) = self.crop_scale, self.crop_ratio
        for name, good, expected in (
            ("image_size", min(self.size) >= 1, "a whole number of pixels, at least 1"),
            ("train_crop", self.train_crop in CROPS, f"one of {', '.join(CROPS)}"),
            ("crop_scale", 0 < low <= high <= 1, "0 < smallest <= largest <= 1"),
            ("crop_ratio", 0 < narrow <= wide, "0 < narrowest <= widest"),
            ("crop_pct", 0 < self.crop_pct <= 1, "more than 0, at most 1"),
            ("resize", self.resize in decode.RESIZES, " or ".join(decode.RESIZES)),
        ):
            if not good:
                value = self.size[0] if name == "image_size" else getattr(self, name)
                choices = {"train_crop": CROPS, "resize": decode.RESIZES}.get(name)
                hint = nearest(str(value), choices) if choices else ""
                raise UserError(
                    f"config.data.{name}={value!r}; expected {expected}.{hint}"
                )

    def train(self, data: bytes, rng: np.random.Generator) -> Seen:
        """The training picture; only `random_resized` draws from `rng`."""
        if self.train_crop != "random_resized":
            return self.seen(data)
        image = decode.decode(data, self.channels)
        height, width = image.shape[:2]
        box = decode.random_resized_box(
            rng, height, width, self.crop_scale, self.crop_ratio
        )
        pixels = decode.resize(decode.crop(image, box), self.size, self.resize)
        return pixels, _shares(box, (height, width))

    def seen(self, data: bytes | UInt8[np.ndarray, "p q c"]) -> Seen:
        """The evaluation picture: all of it for `whole`, else the scaled centre.

        `data` holds a picture file, or pixels with the view's number of channels.
        """
        image = data
        if not isinstance(image, np.ndarray):
            image = decode.decode(image, self.channels)
        height, width = image.shape[:2]
        if self.train_crop == "whole":
            pixels = decode.resize(image, self.size, self.resize)
            return pixels, _shares((0, 0, *self.size), self.size)
        if self.train_crop == "squash":
            crop, target = decode.squash_crop, decode.squash_target
            whole = target(self.size, self.crop_pct)
        else:
            crop, target = decode.center_crop, decode.center_target
            whole = target(height, width, self.size, self.crop_pct)
        pixels = crop(image, self.size, self.crop_pct, self.resize)
        return pixels, _shares(decode.middle_box(whole, self.size), whole)

    def test(
        self, data: bytes | UInt8[np.ndarray, "p q c"]
    ) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of `seen`."""
        return self.seen(data)[0]


def _shares(box: decode.Box, whole: tuple[int, int]) -> Float[np.ndarray, "4"]:
    return np.array(box, np.float32) / np.array([*whole, *whole], np.float32)

"""Crops the centre of pictures so long that resizing all of them would fill memory.

Each function gives the part `box` of the picture resized to `whole`, within rounding,
without resizing the rest. Boxes are (top, left, height, width).
"""

import numpy as np
from PIL import Image

from vit_jax_tricks.typing import Float, UInt8


LARGEST = 2**24  # most pixels of a picture that is resized whole before cropping
REACH = 2  # source pixels that cubic interpolation reads on either side
Box = tuple[int, int, int, int]


def pil_bicubic(
    image: UInt8[np.ndarray, "h w c"], whole: tuple[int, int], box: Box
) -> UInt8[np.ndarray, "p q c"]:
    """Uses Pillow's antialiased cubic filter.

    Pillow processes the axes in the cheaper order, which may differ for a part;
    full-contrast noise may then be clipped differently.
    """
    region, near = [], []  # the pixels that contribute, and the box inside them
    for side, target, start, count in zip(
        image.shape[:2], whole, box[:2], box[2:], strict=True
    ):
        scale = side / target
        low, high = start * scale, (start + count) * scale
        margin = REACH * max(scale, 1) + 1
        first, last = max(int(low - margin), 0), min(int(high + margin) + 1, side)
        region.append(slice(first, last))
        near.append((low - first, high - first))
    pixels = np.ascontiguousarray(image[region[0], region[1]])
    small = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).resize(
        (box[3], box[2]),
        Image.Resampling.BICUBIC,
        box=(near[1][0], near[0][0], near[1][1], near[0][1]),
    )
    return np.asarray(small).reshape(box[2], box[3], -1)


def area(
    image: UInt8[np.ndarray, "h w c"], whole: tuple[int, int], box: Box
) -> UInt8[np.ndarray, "p q c"]:
    """Uses OpenCV's means along an axis that shrinks, cubics along one that grows."""
    axes = [0, 1] if image.shape[0] > image.shape[1] else [1, 0]  # the long one first
    found = image
    for axis in axes:
        index, weights = _taps(image.shape[axis], whole[axis], box[axis], box[axis + 2])
        picked = np.take(found, index, axis).astype(np.float32)
        found = np.einsum(
            "pt,ptwc->pwc" if axis == 0 else "pt,hptc->hpc", weights, picked
        )
    return np.clip(np.round(found), 0, 255).astype(np.uint8)


def _taps(
    side: int, target: int, start: int, count: int
) -> tuple[np.ndarray, Float[np.ndarray, "p t"]]:
    """Source pixels of each target pixel, and their weights."""
    scale = side / target
    place = start + np.arange(count)[:, None]
    if scale > 1:
        low, high = place * scale, (place + 1) * scale
        index = np.floor(low) + np.arange(int(np.ceil(scale)) + 1)
        weights = np.minimum(index + 1, high) - np.maximum(index, low)
        weights = np.maximum(weights, 0)
    else:
        centre = (place + 0.5) * scale - 0.5
        index = np.floor(centre) + np.arange(1 - REACH, REACH + 1)
        weights = _cubic(index - centre, a=-0.75)
    weights /= weights.sum(1, keepdims=True)
    return np.clip(index, 0, side - 1).astype(np.int64), weights.astype(np.float32)


def _cubic(x: Float[np.ndarray, "p t"], a: float) -> Float[np.ndarray, "p t"]:
    """Keys, 1981: ((a + 2)|x| - (a + 3))x² + 1, then a(((|x| - 5)|x| + 8)|x| - 4)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    return np.where(x < 1, near, a * (((x - 5) * x + 8) * x - 4))

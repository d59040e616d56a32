"""Fits the first convolution to other patch sizes and other input channels."""

import math
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.functional.resample import resample_matrix
from vit_jax_tricks.typing import Float


def resample_patches(
    weight: Float[np.ndarray, "o i h w"],
    size: tuple[int, int],
    *,
    bilinear: bool = False,
) -> Float[np.ndarray, "o i p q"]:
    """Resamples a patch embedding to another patch size, preserving its outputs.

    With B the matrix that resizes a patch from the old size to the new one, the new
    weight w B^+ (pseudo-inverse) gives resized patches the embedding of the original
    ones: exactly if both sides grow, otherwise in the least-squares sense. B resizes
    rows and columns in turn, so its pseudo-inverse is that of each factor. The factors
    have full rank whether a side grows or shrinks, so no singular values need to be cut
    off. B is bicubic (a = -0.5) and antialiased, or bilinear without antialiasing.

    Equivalent to timm's `resample_patch_embed` (tested).
    Source: Beyer et al., 2022 (FlexiViT), arXiv:2212.08013.
    """
    old = weight.shape[2:]
    if tuple(old) == tuple(size):
        return weight
    method = "bilinear" if bilinear else "bicubic"
    rows, columns = (
        np.linalg.pinv(resample_matrix(o, n, method=method, antialias=not bilinear))
        for o, n in zip(old, size, strict=True)
    )
    wide = weight.astype(np.float64)
    new = np.einsum("oihw,hp,wq->oipq", wide, rows, columns, optimize=True)
    return new.astype(weight.dtype)


def adapt_channels(
    weight: Float[np.ndarray, "o i h w"], channels: int
) -> Float[np.ndarray, "o c h w"]:
    """Adapts a convolution to another number of input channels.

    One channel gets the sum over all; more channels repeat the old ones in turn, scaled
    by old / new, so that an image with equal channels keeps its outputs if old divides
    new.

    Equivalent to timm's `adapt_input_conv` (tested).
    """
    old = weight.shape[1]
    if channels == old:
        return weight
    if channels == 1:
        return weight.sum(1, keepdims=True)
    tiled = np.tile(weight, (1, math.ceil(channels / old), 1, 1))[:, :channels]
    return (tiled * (old / channels)).astype(weight.dtype)


def patch_embedding(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    bilinear: bool = False,
) -> np.ndarray:
    """`KeyRule.resize` of a patch embedding: adapts the patch size and the channels."""
    weight = _convolution(array, expected)
    size = expected[2], expected[3]
    weight = resample_patches(weight, size, bilinear=bilinear)
    return input_channels(weight, expected, model, path)


def input_channels(
    array: np.ndarray, expected: tuple[int, ...], model: Any, path: str
) -> np.ndarray:
    """`KeyRule.resize` of a stem's first convolution: adapts only the channels."""
    del model, path
    weight = _convolution(array, expected)
    if weight.shape[2:] != expected[2:]:
        raise UserError(f"its kernel is {weight.shape[2:]}, not {expected[2:]}.")
    return adapt_channels(weight, expected[1])


def _convolution(array: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    """The weight in float32, checked for the expected number of outputs."""
    if array.ndim != 4 or array.shape[0] != expected[0]:
        raise UserError(f"its width is {array.shape[0]}, not {expected[0]}.")
    return array.astype(np.float32)

"""Resampling of relative position bias tables to another window."""

import math

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Float


def resize_relative_bias(
    table: Float[np.ndarray, "r g"], window: tuple[int, int]
) -> Float[np.ndarray, "s g"]:
    """A bias table of a square window for a window (h, w), s = (2h - 1)(2w - 1).

    Equivalent to timm's `resize_rel_pos_bias_table` (without SciPy).

    Raises:
        UserError: the rows are not those of a square window.
    """
    side = math.isqrt(table.shape[0])
    if side * side != table.shape[0] or side % 2 == 0:
        raise UserError(f"its {table.shape[0]} rows are not those of a square window.")
    grid = table.reshape(side, side, -1)
    h, w = window
    return resize_offsets(grid, (2 * h - 1, 2 * w - 1)).reshape(-1, table.shape[1])


def resize_offsets(
    grid: Float[np.ndarray, "h w g"], size: tuple[int, int]
) -> Float[np.ndarray, "i j g"]:
    """Linear interpolation of values at offsets that grow geometrically.

    The old values are taken to lie at 0, +-1, +-(1 + q), +-(1 + q + q^2), ..., with q
    such that the last offset is that of the new grid, so near offsets stay as they are
    and far ones spread out. Source: `run_class_finetuning.py` of BEiT (Bao et al. 2021,
    arXiv 2106.08254), linear as in timm.
    """
    rows, cols = (
        _linear(_offsets(old, new), new)
        for old, new in zip(grid.shape[:2], size, strict=True)
    )
    wide = grid.astype(np.float64)
    new = np.einsum("ih,jw,hwg->ijg", rows, cols, wide, optimize=True)
    return new.astype(grid.dtype)


def _offsets(old: int, new: int) -> np.ndarray:
    """Where the `old` values of one axis lie, for a new axis of `new` values."""
    if old == new:
        return np.arange(old) - old // 2
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    right = np.cumsum(ratio ** np.arange(old // 2))
    return np.concatenate([-right[::-1], [0], right])


def _linear(offsets: np.ndarray, new: int) -> np.ndarray:
    """The [new, old] matrix of linear interpolation, constant beyond the ends."""
    at = np.arange(new) - new // 2
    return np.stack([np.interp(at, offsets, row) for row in np.eye(len(offsets))], 1)

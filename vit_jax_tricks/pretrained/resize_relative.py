"""Resamples relative position bias tables to another window."""

import math

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Float


def resize_relative_bias(
    table: Float[np.ndarray, "r g"],
    window: tuple[int, int],
    *,
    old_window: tuple[int, int] | None = None,
) -> Float[np.ndarray, "s g"]:
    """Resamples a bias table to another window (h, w), s = (2h - 1)(2w - 1).

    `old_window` defaults to a square or, if the rows do not fit a square but fit the
    new window, to the new one. Equivalent to timm's `resize_rel_pos_bias_table`
    (tested, without SciPy), which, as soon as one axis changes, also warps an axis that
    keeps its length, by the smallest ratio, 1.01.

    Raises:
        UserError: the rows do not match the window.
    """
    rows, size = len(table), _offsets_of(window)
    old = _square(rows) if old_window is None else _offsets_of(old_window)
    if old is None and rows == math.prod(size):
        return table
    if old is None or math.prod(old) != rows:
        what = "a square window" if old_window is None else f"a window {old_window}"
        raise UserError(f"its {rows} rows are not those of {what}.")
    grid = table.reshape(*old, -1)
    return resize_offsets(grid, size).reshape(-1, table.shape[1])


def resize_offsets(
    grid: Float[np.ndarray, "h w g"], size: tuple[int, int]
) -> Float[np.ndarray, "i j g"]:
    """Interpolates linearly between values at geometrically growing offsets.

    The old values are placed at 0, +-1, +-(1 + q), +-(1 + q + q^2), ..., with q between
    1.01 and 1.5 such that the last offset is that of the new grid: near offsets hardly
    move and far ones spread out. A grid that already has this size is returned
    unchanged.

    Source: `run_class_finetuning.py` of BEiT (Bao et al., 2021, arXiv:2106.08254),
    linear as in timm.
    """
    if grid.shape[:2] == tuple(size):
        return grid
    rows, cols = (
        _linear(_offsets(old, new), new)
        for old, new in zip(grid.shape[:2], size, strict=True)
    )
    wide = grid.astype(np.float64)
    new = np.einsum("ih,jw,hwg->ijg", rows, cols, wide, optimize=True)
    return new.astype(grid.dtype)


def _offsets_of(window: tuple[int, int]) -> tuple[int, int]:
    """Number of offsets along each side of a window."""
    return 2 * window[0] - 1, 2 * window[1] - 1


def _square(rows: int) -> tuple[int, int] | None:
    side = math.isqrt(rows)
    return (side, side) if side**2 == rows and side % 2 else None


def _offsets(old: int, new: int) -> np.ndarray:
    """Positions of the `old` values of one axis on a new axis of `new` values."""
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

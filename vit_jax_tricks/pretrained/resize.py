"""Resamples position tables."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.functional.resample import resize_table
from vit_jax_tricks.typing import Array, Float


def resize_positions(
    table: Float[Array, "1 n d"],
    grid: tuple[int, int],
    *,
    prefix: int,
    old_grid: tuple[int, int] | None = None,
    plain: bool = False,
    bilinear: bool = False,
) -> Float[Array, "1 m d"]:
    """Resamples a position table to another grid: bicubic (a = -0.5), antialiased.

    The first `prefix` rows are kept. `old_grid` defaults to a square. `plain` is
    bicubic with a = -0.75 and no antialiasing; `bilinear` also has no antialiasing.

    Equivalent to timm's `resample_abs_pos_embed`; with `bilinear`, to timm's treatment
    of `.npz` files; and with `plain`, to `resize_pos_embed` of the official DeiT,
    T2T-ViT and LV-ViT (tested).

    Raises:
        UserError: the rows after the prefix do not match the old grid.
    """
    n, d = table.shape[1] - prefix, table.shape[2]
    if old_grid is None:
        side = math.isqrt(max(n, 0))
        old_grid, what = (side, side), "a square grid"
    else:
        what = f"a grid of {old_grid[0]} rows and {old_grid[1]} columns"
    if n < 1 or math.prod(old_grid) != n:
        raise UserError(
            f"a position table of {table.shape[1]} rows is not {prefix} prefix tokens "
            f"and {what}; create the model with the tokens of the file, or give the "
            "file's grid=(rows, columns)."
        )
    head, body = table[:, :prefix], table[:, prefix:]
    if plain:
        body = resize_table(np.asarray(body).reshape(*old_grid, d), grid)
    else:
        body = jnp.asarray(body).reshape(1, *old_grid, d)
        how = "bilinear" if bilinear else "bicubic"
        body = jax.image.resize(body, (1, *grid, d), how, antialias=not bilinear)
    return jnp.concatenate([head, body.reshape(1, -1, d)], axis=1)


def positions(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_grid: tuple[int, int] | None = None,
    bilinear: bool = False,
) -> np.ndarray:
    """`KeyRule.resize` of position tables: to `model.grid`, after the prefix rows.

    `old_grid` is the file's grid, if known; a table with the right number of rows but
    another grid is then resampled too. By default, a table with the right number of
    rows is assumed to have the model's grid, and any other a square one.
    """
    del path
    return _positions(array, expected, model, old_grid, bilinear=bilinear)


def plain_positions(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    path: str,
    *,
    old_grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """`positions` by plain bicubic resampling, as in the official repositories."""
    del path
    return _positions(array, expected, model, old_grid, plain=True)


def _positions(
    array: np.ndarray,
    expected: tuple[int, ...],
    model: Any,
    old_grid: tuple[int, int] | None,
    *,
    plain: bool = False,
    bilinear: bool = False,
) -> np.ndarray:
    if array.ndim != 3 or array.shape[-1] != expected[-1]:
        raise UserError(f"its width is {array.shape[-1:]}, not {expected[-1]}.")
    if array.shape == expected and (old_grid or model.grid) == model.grid:
        return array
    resized = resize_positions(
        array.astype(np.float32),
        model.grid,
        prefix=model.position_prefix,
        old_grid=old_grid,
        plain=plain,
        bilinear=bilinear,
    )
    return np.asarray(resized)

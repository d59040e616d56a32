"""Resampling of position tables."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.functional.resample import resize_bicubic
from vit_jax_tricks.typing import Array, Float


def resize_positions(
    table: Float[Array, "1 n d"],
    grid: tuple[int, int],
    *,
    prefix: int,
    old_grid: tuple[int, int] | None = None,
    plain: bool = False,
) -> Float[Array, "1 m d"]:
    """Resamples a position table to another grid, bicubic (a = -0.5), antialiased.

    The first `prefix` rows are kept. `old_grid` defaults to a square. `plain` is
    bicubic with a = -0.75 and without antialiasing. Equivalent to timm's
    `resample_abs_pos_embed`, and with `plain` to `resize_pos_embed` of the official
    DeiT, T2T-ViT and LV-ViT (tested).

    Raises:
        UserError: the rows after the prefix are not the old grid's.
    """
    n, d = table.shape[1] - prefix, table.shape[2]
    side = math.isqrt(max(n, 0))
    old_grid = (side, side) if old_grid is None else old_grid
    if n < 1 or math.prod(old_grid) != n:
        raise UserError(
            f"a position table of {table.shape[1]} rows is not {prefix} prefix tokens "
            f"and a square grid; create the model with the tokens of the file."
        )
    head, body = table[:, :prefix], table[:, prefix:]
    if plain:
        body = resize_bicubic(np.asarray(body).reshape(*old_grid, d), grid)
    else:
        body = jnp.asarray(body).reshape(1, *old_grid, d)
        body = jax.image.resize(body, (1, *grid, d), "bicubic", antialias=True)
    return jnp.concatenate([head, body.reshape(1, -1, d)], axis=1)


def positions(
    array: np.ndarray, expected: tuple[int, ...], model: Any, path: str
) -> np.ndarray:
    """The `Rule.resize` of position tables: to `model.grid` after the prefix rows."""
    return _positions(array, expected, model, path, plain=False)


def plain_positions(
    array: np.ndarray, expected: tuple[int, ...], model: Any, path: str
) -> np.ndarray:
    """`positions` by plain bicubic resampling, as the official repositories do it."""
    return _positions(array, expected, model, path, plain=True)


def _positions(
    array: np.ndarray, expected: tuple[int, ...], model: Any, path: str, *, plain: bool
) -> np.ndarray:
    del path
    if array.ndim != 3 or array.shape[-1] != expected[-1]:
        raise UserError(f"its width is {array.shape[-1:]}, not {expected[-1]}.")
    table = array.astype(np.float32)
    resized = resize_positions(
        table, model.grid, prefix=model.position_prefix, plain=plain
    )
    return np.asarray(resized)

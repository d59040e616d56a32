"""Rotary position encodings: rotate pairs of features by position-dependent angles."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.models.layers.functional.float32_trigonometry import (
    float32_power,
    float32_sin_cos,
)
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float, PRNGKeyArray


def rotary_coordinates(
    grid: tuple[int, int],
    *,
    indexing: str = "ij",
    offset: float = 0.0,
    reference: tuple[int, int] | None = None,
) -> Float[np.ndarray, "n 2"]:
    """(row, column) of each token, row-major; (column, row) with indexing "xy".

    Positions are 0, 1, ... + `offset`. With a `reference` grid they are scaled to its
    length, so that another resolution spans the same angles (EVA-02).
    """
    axes = [np.arange(n, dtype=np.float32) + np.float32(offset) for n in grid]
    if reference is not None:
        axes = [
            axis / np.float32(n) * np.float32(r)
            for axis, n, r in zip(axes, grid, reference, strict=True)
        ]
    rows, columns = np.meshgrid(*axes, indexing="ij")
    pair = (columns, rows) if indexing == "xy" else (rows, columns)
    return np.stack(pair, -1).reshape(-1, 2)


def rotary_axial(
    coordinates: Float[np.ndarray, "n 2"], dim: int, *, temperature: float = 10000.0
) -> Float[np.ndarray, "n a"]:
    """Angles p T^(-4k/dim), k < dim / 4, for the first coordinate, then for the second.

    a = dim / 2, where `dim` is the width of a head. Equivalent to the angles of timm's
    `RotaryEmbeddingCat`.

    Sources: Su et al., 2021 (RoFormer), arXiv:2104.09864; Fang et al., 2023 (EVA-02),
    arXiv:2303.11331; Heo et al., 2024, arXiv:2403.13298.
    """
    k = np.arange(dim // 4, dtype=np.float32) / np.float32(dim // 4)
    bands = np.float32(1) / float32_power(temperature, k)
    angles = coordinates[:, :, None] * bands
    return angles.reshape(len(coordinates), -1)


def rotary_dinov3(
    grid: tuple[int, int], dim: int, *, temperature: float = 100.0
) -> Float[np.ndarray, "n a"]:
    """Angles 2 pi p T^(-4k/dim) of positions p in (-1, 1): patch centres, row first.

    a = dim / 2. An image spans the same angles at every resolution.

    Source: Simeoni et al., 2025 (DINOv3), arXiv:2508.10104; timm's
    `RotaryEmbeddingDinoV3`.
    """
    axes = [
        (np.arange(n, dtype=np.float32) + np.float32(0.5)) / n * 2 - 1 for n in grid
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    k = np.arange(dim // 4, dtype=np.float32)
    periods = float32_power(temperature, np.float32(2) * k / (dim // 2))
    angles = np.float32(2 * np.pi) * points[:, :, None] / periods
    return angles.reshape(len(points), -1).astype(np.float32)


def rotary_mixed(
    frequencies: Float[Array, "2 *s a"], coordinates: Float[np.ndarray, "n 2"]
) -> Float[Array, "*s n a"]:
    """Angles p_0 f_0 + p_1 f_1 with learned frequencies, not confined to one axis.

    There is one set of frequencies for each head and block (the axes s). The values are
    rounded to float32, but held in float64 if the frequencies are: the reference
    computes them in float32 whatever the model's dtype. Equivalent to the angles of
    timm's `RotaryEmbeddingMixed`.

    Source: Heo et al., 2024 (RoPE-Mixed), arXiv:2403.13298.
    """
    wide = at_least_float32(frequencies.dtype)
    f = _to_float32(frequencies.astype(wide))[..., None, :]
    points = jnp.asarray(coordinates, wide)
    shape = (*(1,) * (f.ndim - 3), -1, 1)
    first, second = points[:, 0].reshape(shape), points[:, 1].reshape(shape)
    return _to_float32(_to_float32(f[0] * first) + _to_float32(f[1] * second))


def _to_float32(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The nearest float32 values, in the dtype of x; compilers may not skip it."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)


def mixed_frequencies(
    key: PRNGKeyArray,
    shape: Sequence[int],
    dim: int,
    *,
    temperature: float = 10.0,
) -> Float[Array, "2 *s a"]:
    """Initial frequencies: magnitudes T^(-4k/dim) along a random axis and its normal.

    A direction is drawn for each entry of `shape` (blocks, heads). The first dim / 4
    frequencies lie along it, and the others a quarter turn away.

    Source: Heo et al., 2024 (RoPE-Mixed), arXiv:2403.13298; timm's
    `init_random_2d_freqs`.
    """
    magnitude = temperature ** -(np.arange(0, dim, 4) / dim)
    turn = jax.random.uniform(key, (*shape, 1)) * (2 * np.pi)
    turns = jnp.concatenate([turn, turn + np.pi / 2], axis=-1)
    direction = jnp.stack([jnp.cos(turns), jnp.sin(turns)])
    magnitude = jnp.asarray(magnitude, turn.dtype)
    frequencies = jnp.einsum("...r,k->...rk", direction, magnitude)
    return frequencies.reshape(2, *shape, -1)


def rotary_table(
    angles: Float[Array, "*s n a"], *, half: bool = False, prefix: int = 0
) -> Float[Array, "*s m e"]:
    """Table (sin | cos) for `rotate`, e = 4a; `prefix` tokens are not rotated.

    Each angle serves two neighbouring features or, with `half`, features i and i + a.
    Constant angles are NumPy arrays and give a float32 table, rounded as in the
    reference; learned angles in float64 give these float32 values in float64.
    Equivalent to the tables of timm's `RotaryEmbeddingCat`, `...DinoV3` and `...Mixed`.
    """
    xp = np if isinstance(angles, np.ndarray) else jnp
    if xp is np or angles.dtype == jnp.float64:
        exact = float32_sin_cos(angles.astype(np.float32))
        sin_cos = [y.astype(angles.dtype) for y in exact]
    else:
        sin_cos = jnp.sin(angles), jnp.cos(angles)
    parts = []
    for y, still in zip(sin_cos, (0, 1), strict=True):
        pads = [(0, 0)] * (y.ndim - 2) + [(prefix, 0), (0, 0)]
        y = xp.pad(y, pads, constant_values=still)
        parts.append(xp.concatenate([y, y], -1) if half else xp.repeat(y, 2, axis=-1))
    return xp.concatenate(parts, axis=-1)


def rotate(
    x: Float[Array, "b n g h"],
    table: Float[Array, "#b n #g 2*h"],
    *,
    half: bool = False,
) -> Float[Array, "b n g h"]:
    """Rotates pairs of features: (a, b) -> (a cos t - b sin t, b cos t + a sin t).

    Pairs are neighbouring features or, with `half`, features i and i + h/2. Computed in
    at least float32. Equivalent to timm's `apply_rot_embed_cat`.

    Source: Su et al., 2021 (RoFormer), arXiv:2104.09864.
    """
    wide = at_least_float32(x.dtype)
    sin, cos = jnp.split(jnp.asarray(table, wide), 2, axis=-1)
    y = x.astype(wide)
    if half:
        first, second = jnp.split(y, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    else:
        pairs = y.reshape(*y.shape[:-1], -1, 2)
        turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(y.shape)
    return (y * cos + turned * sin).astype(x.dtype)

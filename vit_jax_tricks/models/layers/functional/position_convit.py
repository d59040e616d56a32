"""ConViT's relative positions: offsets, their convolution-like start, and their scores.

Source: d'Ascoli et al., 2021, arXiv:2103.10697.
"""

import math

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def rel_indices(grid: tuple[int, int]) -> Float[np.ndarray, "n n 3"]:
    """Offsets (x, y, x^2 + y^2) from query i to key j on a grid (h, w), row-major.

    x counts columns and y rows, key minus query. Equivalent to ConViT's
    `GPSA.get_rel_indices`, which handles square grids.
    """
    rows, columns = np.indices(grid).reshape(2, -1)
    x = columns[None, :] - columns[:, None]
    y = rows[None, :] - rows[:, None]
    return np.stack([x, y, x**2 + y**2], axis=-1).astype(np.float32)


def local_kernel(num_heads: int, strength: float) -> Float[np.ndarray, "3 c"]:
    """Initial weights of (x, y, x^2 + y^2) that make head c look at one neighbour.

    The score -s ||(x, y) - m_c||^2, up to a constant, has the weights s (2 m_c, -1).
    The means m_c are the points of a centred K x K square with spacing 1, K =
    floor(sqrt(num_heads)), ordered row by row within a column. A larger `strength` s >
    0 gives a narrower focus. Heads beyond K^2 have no column here. Equivalent to
    ConViT's `GPSA.local_init`.
    """
    side = math.isqrt(num_heads)
    columns, rows = np.indices((side, side)).reshape(2, -1) - (side - 1) / 2
    kernel = np.stack([2 * columns, 2 * rows, -np.ones(side**2)])
    return (strength * kernel).astype(np.float32)


def position_scores(
    offsets: Float[Array, "n m 3"],
    kernel: Float[Array, "3 g"],
    bias: Float[Array, "g"],
) -> Float[Array, "g n m"]:
    """Score of each offset for each head: offsets . kernel + bias.

    Computed in at least float32, because squared distances exceed the integers that
    bfloat16 represents exactly.
    """
    wide = at_least_float32(kernel.dtype)
    scores = jnp.einsum("nmc,cg->gnm", jnp.asarray(offsets, wide), kernel.astype(wide))
    return scores + bias.astype(wide)[:, None, None]

"""Relative positions in a window: index tables, biases and log-spaced coordinates."""

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.typing import Array, Float, Int


def relative_position_index(
    window: tuple[int, int], *, class_token: bool = False
) -> Int[np.ndarray, "n n"]:
    """Row of the bias table for each (query i, key j), tokens row-major.

    With d = query - key in rows and columns of a window (h, w): (d_row + h - 1) (2w -
    1) + d_column + w - 1. A leading class token has three rows of its own at the end of
    the table: class to token, token to class, class to class. Equivalent to timm's
    `gen_relative_position_index`.

    Source: Liu et al., 2021 (Swin), arXiv:2103.14030.
    """
    h, w = window
    rows, cols = np.indices(window).reshape(2, -1)
    index = (rows[:, None] - rows[None, :] + h - 1) * (2 * w - 1)
    index = index + (cols[:, None] - cols[None, :] + w - 1)
    if class_token:
        last = (2 * h - 1) * (2 * w - 1)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index.astype(np.int32)


def relative_bias(
    table: Float[Array, "r g"], index: Int[np.ndarray, "n m"]
) -> Float[Array, "g n m"]:
    """Bias of each head between query n and key m: table[index[n, m], g]."""
    return table[index].transpose(2, 0, 1)


def one_hot_bias(table: Float[Array, "g r s"]) -> Float[Array, "g n n"]:
    """Bias between query n and key m by their offset key - query, tokens row-major.

    table[g, row_m - row_n + h - 1, column_m - column_n + w - 1], r = 2h - 1, s = 2w -
    1. The entries are selected by two products with one-hot arrays, which is cheaper on
    accelerators than a gather. Equivalent to timm's `reindex_2d_einsum_lookup`.
    """
    h, w = ((n + 1) // 2 for n in table.shape[1:])
    rows, columns = (jnp.asarray(_one_hot(n), table.dtype) for n in (h, w))
    y = jnp.einsum("grs,ixr->gixs", table, rows)
    return jnp.einsum("gixs,jys->gijxy", y, columns).reshape(-1, h * w, h * w)


def _one_hot(n: int) -> Float[np.ndarray, "n n r"]:
    """1 at [query, key, key - query + n - 1]."""
    offset = np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1
    return np.eye(2 * n - 1)[offset]


def log_spaced_coords(
    window: tuple[int, int],
    *,
    pretrained: tuple[int, int] = (0, 0),
    mode: str = "swin",
) -> Float[np.ndarray, "i j 2"]:
    """Log-spaced (row, column) offsets in a window (h, w), i = 2h - 1, j = 2w - 1.

    "swin": sign(x) log2(1 + |x|) / log2(8) with x = 8 d / (h - 1), so that the largest
    offset d of the pre-training window (`pretrained`, if that is not 0) is near 1.
    "cr": sign(d) ln(1 + |d|). Computed in float32, as in the references. Equivalent to
    timm's `gen_relative_log_coords`.

    Source: Liu et al., 2021 (Swin V2), arXiv:2111.09883.
    """
    axes = [np.arange(1 - n, n, dtype=np.float32) for n in window]
    if mode == "cr":
        squeezed = [np.sign(d) * np.log1p(np.abs(d)) for d in axes]
    else:
        full = pretrained if pretrained[0] else window
        axes = [
            d / np.float32(max(n - 1, 1)) * 8 for d, n in zip(axes, full, strict=True)
        ]
        squeezed = [np.sign(x) * np.log2(np.abs(x) + 1) / 3 for x in axes]
    return np.stack(np.meshgrid(*squeezed, indexing="ij"), axis=-1)

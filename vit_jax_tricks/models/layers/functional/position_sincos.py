"""Fixed sine-cosine position tables, for a sequence and for a grid."""

import numpy as np

from vit_jax_tricks.typing import Float


# The axis that comes first; whether the last frequency is 1 / temperature or one step
# short of it; and whether features are grouped by axis or by function (sin, cos).
SINCOS_FORMS = {
    "big_vision": ("column", True, "axis"),
    "mae": ("column", False, "axis"),
    "moco": ("row", False, "axis"),
    "timm": ("row", False, "function"),
}


def sincos_2d(
    grid: tuple[int, int],
    dim: int,
    *,
    form: str = "big_vision",
    temperature: float = 10000.0,
) -> Float[np.ndarray, "n d"]:
    """Sines and cosines of each row and column: sin(p w_k), cos(p w_k), k < dim / 4.

    x is the column, y the row. "big_vision": w_k = T^(-k / (dim/4 - 1)), features (sin
    x, cos x, sin y, cos y); "mae": w_k = T^(-4k/dim), the same order; "moco": (sin y,
    cos y, sin x, cos x); "timm": (sin y, sin x, cos y, cos x). Tokens are row-major,
    values float32.

    Sources: Chen et al., 2021 (MoCo v3), arXiv:2104.02057; He et al., 2021 (MAE),
    arXiv:2111.06377; Beyer et al., 2022, arXiv:2205.01580 (`posemb_sincos_2d` of
    big_vision); timm's `build_sincos2d_pos_embed`.
    """
    first, inclusive, grouped = SINCOS_FORMS[form]
    bands = dim // 4
    k = np.arange(bands) / max(bands - 1 if inclusive else bands, 1)
    frequencies = 1 / temperature**k
    rows, columns = np.indices(grid).reshape(2, -1)
    axes = (rows, columns) if first == "row" else (columns, rows)
    angles = np.stack(axes, 1)[:, :, None] * frequencies
    stacked = np.stack(
        [np.sin(angles), np.cos(angles)], axis=2 if grouped == "axis" else 1
    )
    return stacked.reshape(len(rows), -1).astype(np.float32)


def sinusoid_positions(n: int, d: int) -> Float[np.ndarray, "1 n d"]:
    """sin(p / 10000^(2 floor(j / 2) / d)) in even columns j, cos in odd ones; float32.

    Source: Vaswani et al., 2017, arXiv:1706.03762. Equivalent to T2T-ViT's
    `get_sinusoid_encoding` (tested).
    """
    j = np.arange(d)
    angle = np.arange(n)[:, None] / 10000 ** (2 * (j // 2) / d)
    table = np.where(j % 2 == 0, np.sin(angle), np.cos(angle))
    return table[None].astype(np.float32)

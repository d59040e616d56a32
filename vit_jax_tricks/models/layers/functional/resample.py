"""Resampling of tables on a grid, on the host."""

import numpy as np

from vit_jax_tricks.typing import Float


def bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "n m"]:
    """The [new, old] matrix of cubic convolution with a = -0.75 and no antialiasing.

    Output i reads position c = (i + 1/2) old / new - 1/2 with the weights of the four
    entries around it; those beyond the ends are the end ones. For t = |distance|:
    (a + 2) t^3 - (a + 3) t^2 + 1 up to 1, a (t^3 - 5 t^2 + 8 t - 4) up to 2.
    Source: Keys 1981, with the a of PyTorch's `interpolate`.
    """
    a = -0.75
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        t = np.abs(centre - (first + tap))
        near = ((a + 2) * t - (a + 3)) * t**2 + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        column = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), column), np.where(t <= 1, near, far))
    return matrix


def resize_bicubic(
    table: Float[np.ndarray, "h w d"], grid: tuple[int, int]
) -> Float[np.ndarray, "i j d"]:
    """Bicubic resampling with a = -0.75, without antialiasing, of a table to a grid.

    Equivalent to PyTorch's `interpolate(mode="bicubic", align_corners=False)`, which
    the official DeiT, Swin, T2T-ViT and LV-ViT use (tested). Computed in float64.
    """
    rows, columns = (
        bicubic_matrix(old, new) for old, new in zip(table.shape[:2], grid, strict=True)
    )
    return np.einsum("ih,jw,hwd->ijd", rows, columns, table, optimize=True).astype(
        table.dtype
    )

"""Resampling of tables on a grid, on the host."""

import numpy as np

from vit_jax_tricks.typing import Float


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """(a + 2) t^3 - (a + 3) t^2 + 1 for t <= 1, a (t^3 - 5 t^2 + 8 t - 4) for t < 2."""
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def resample_matrix(
    old: int,
    new: int,
    *,
    method: str = "bicubic",
    antialias: bool = False,
    align_corners: bool = False,
) -> Float[np.ndarray, "n m"]:
    """The [new, old] matrix for "bicubic" or "bilinear" resampling along one axis.

    Output i reads around the position c = (i + 1/2) old / new - 1/2, or i (old - 1) /
    (new - 1) with `align_corners`. Entry j is weighted by the kernel of t = |c - j|: 1
    - t up to 1, or the cubic kernel with a = -0.75; beyond the ends, the end entries
    are repeated. `antialias` stretches the kernel by old / new if that exceeds 1,
    normalises the weights inside the table to sum to 1 instead of repeating the ends,
    and uses a = -0.5.

    Source: Keys, 1981; PyTorch's `interpolate`.
    """
    i = np.arange(new)
    centre = (i + 0.5) * old / new - 0.5
    if align_corners:
        centre = i * (old - 1) / max(new - 1, 1)
    stretch = max(old / new, 1.0) if antialias else 1.0
    reach = (2 if method == "bicubic" else 1) * stretch
    matrix = np.zeros((new, old))
    for tap in range(int(np.floor(-reach)), int(np.ceil(reach)) + 1):
        entry = np.floor(centre).astype(int) + tap
        t = np.abs(centre - entry) / stretch
        if method == "bicubic":
            weight = _cubic(t, -0.5 if antialias else -0.75)
        else:
            weight = np.maximum(1 - t, 0)
        if antialias:
            weight = np.where((entry >= 0) & (entry < old), weight, 0)
        np.add.at(matrix, (i, np.clip(entry, 0, old - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True)


def resize_table(
    table: Float[np.ndarray, "h w d"],
    grid: tuple[int, int],
    *,
    method: str = "bicubic",
    antialias: bool = False,
    align_corners: bool = False,
) -> Float[np.ndarray, "i j d"]:
    """Resamples a table to a grid by `resample_matrix` along both axes, in float64.

    Equivalent to PyTorch's `interpolate`. The official DeiT, Swin, T2T-ViT and LV-ViT
    use plain bicubic, timm bicubic with `antialias`, timm's `.npz` loader bilinear, and
    vision_transformer bilinear with `align_corners`.
    """
    rows, columns = (
        resample_matrix(
            old, new, method=method, antialias=antialias, align_corners=align_corners
        )
        for old, new in zip(table.shape[:2], grid, strict=True)
    )
    return np.einsum("ih,jw,hwd->ijd", rows, columns, table, optimize=True).astype(
        table.dtype
    )

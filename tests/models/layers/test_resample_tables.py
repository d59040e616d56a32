"""Resampling of tables against PyTorch, timm and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
from goldens import load_golden

from vit_jax_tricks.models.layers.functional import resample_matrix, resize_table


METHODS = {
    "timm_bicubic_antialias": {"antialias": True},
    "interp_bicubic_aa0": {},
    "interp_bicubic_aa1": {"antialias": True},
    "interp_bilinear_aa0": {"method": "bilinear"},
    "interp_bilinear_aa1": {"method": "bilinear", "antialias": True},
    "interp_bicubic_aligncorners": {"align_corners": True},
}


@pytest.mark.parametrize(("method", "options"), METHODS.items())
@pytest.mark.parametrize(
    "case", ["7x7_to_12x12", "14x14_to_24x24", "14x14_to_10x10", "4x6_to_7x5"]
)
def test_every_method_is_the_reference_s(case, method, options):
    """Within the float32 rounding of the references."""
    _, arrays = load_golden("ops/position_resize")
    h, w, i, j = map(int, case.replace("_to_", "x").split("x"))
    table = arrays[f"pos:{case}"][0, 1:].reshape(h, w, -1)
    expected = arrays[f"{method}:{case}"][0, 1:].reshape(i, j, -1)
    y = resize_table(table, (i, j), **options)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("grid", [(9, 5), (3, 7), (5, 6)])
def test_vision_transformer_s_is_bilinear_with_aligned_corners(grid):
    table = np.random.default_rng(0).standard_normal((5, 6, 2))
    zoom = [new / old for new, old in zip((*grid, 2), table.shape, strict=True)]
    expected = np.asarray(scipy.ndimage.zoom(table, zoom, order=1))
    y = resize_table(table, grid, method="bilinear", align_corners=True)
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("options", METHODS.values())
def test_constants_stay_and_the_same_size_changes_nothing(options):
    for old, new in ((4, 9), (9, 4), (1, 3), (3, 1)):
        matrix = resample_matrix(old, new, **options)
        np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(resample_matrix(7, 7, **options), np.eye(7), atol=1e-12)

"""Patch embeddings and bias tables of other sizes, as timm makes them; stored by
tests/golden/make_resampled.py."""

import numpy as np
import pytest
from goldens import base_normal, load_golden

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.layers.functional.resample import resample_matrix
from vit_jax_tricks.pretrained.patches import resample_patches
from vit_jax_tricks.pretrained.relatives_rules import bias_tables
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias


CASES = sorted(load_golden("pretrained/resampled")[1])


def size(text):
    return tuple(map(int, text.split("x")))


def stored(case):
    return load_golden("pretrained/resampled")[1][case]


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("bi")])
def test_patches_as_timm(case):
    how, old, new = case.split(":")
    weight = base_normal("weight", (2, 1, *size(old))).astype(np.float64)
    ours = resample_patches(weight, size(new), bilinear=how == "bilinear")
    expected = stored(case)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    narrow = resample_patches(
        weight.astype(np.float32), size(new), bilinear=how == "bilinear"
    )
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("new", [(12, 20), (8, 24), (24, 8), (16, 9), (17, 15)])
def test_patches_by_the_formula(new):
    weight = base_normal("weight", (2, 1, 16, 16)).astype(np.float64)
    sides = [resample_matrix(16, n, antialias=True) for n in new]
    whole = np.kron(*sides)  # [new, old], of rank below both where a side shrinks
    inverse = np.linalg.pinv(whole, rcond=1e-10)
    expected = (weight.reshape(2, -1) @ inverse).reshape(2, 1, *new)
    np.testing.assert_allclose(resample_patches(weight, new), expected, atol=1e-12)
    assert np.abs(expected).max() < 20


@pytest.mark.parametrize("case", [c for c in CASES if c.endswith(":0")])
def test_bias_tables_as_timm(case):
    _, old, new, _ = case.split(":")
    expected = stored(case)
    rows = np.prod([2 * side - 1 for side in size(old)])
    table = base_normal("table", (rows, 2))
    ours = resize_relative_bias(table, size(new), old_window=size(old))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=4e-6)
    if len(set(size(old))) == 1:
        np.testing.assert_array_equal(resize_relative_bias(table, size(new)), ours)


@pytest.mark.parametrize("case", [c for c in CASES if c.endswith(":3")])
def test_bias_tables_with_rows_for_the_class_token(case):
    _, old, new, _ = case.split(":")
    h, w = size(new)
    expected = stored(case)
    model = create_model("beit_base_patch16_224", img_size=(16 * h, 16 * w))
    rows = np.prod([2 * side - 1 for side in size(old)])
    table = base_normal("table", (rows + 3, 2))
    fitted = bias_tables(table, expected.shape, model, "", old_grid=size(old))
    np.testing.assert_allclose(fitted, expected, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(fitted[-3:], table[-3:])


def test_a_table_of_this_window_stays():
    table = base_normal("table", (3 * 15, 2))
    assert resize_relative_bias(table, (2, 8)) is table
    same = resize_relative_bias(table, (2, 8), old_window=(2, 8))
    np.testing.assert_array_equal(same, table)
    with pytest.raises(UserError, match="45 rows are not those of a square window"):
        resize_relative_bias(table, (2, 9))
    with pytest.raises(UserError, match=r"not those of a window \(3, 3\)"):
        resize_relative_bias(table, (2, 9), old_window=(3, 3))

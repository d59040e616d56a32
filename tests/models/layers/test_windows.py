"""Windows, shift masks and relative positions against microsoft and timm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from model_goldens import jit_once

from vit_jax_tricks.models.layers import functional


@pytest.fixture(scope="module")
def tables():
    return load_golden("models_full/official_swin_index_tables")[1]


def test_windows_there_and_back(tables):
    x = jnp.asarray(tables["window_partition_in"])
    windows = functional.window_partition(x, (2, 2))
    expected = tables["window_partition_w2"].reshape(windows.shape)
    np.testing.assert_array_equal(windows, expected)
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    windows = functional.window_partition(x, (2, 3))
    assert windows.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(windows[1, 3], x[1, 2:, 3:].reshape(6, 3))
    back = functional.window_reverse(windows, (2, 3), (4, 6))
    np.testing.assert_array_equal(back, x)


def test_merging_takes_the_neighbour_below_before_the_one_to_the_right(tables):
    x = jnp.asarray(tables["window_partition_in"])
    merged = functional.merge_neighbours(x)
    expected = tables["patch_merging_gather"].reshape(merged.shape)
    np.testing.assert_array_equal(merged, expected)
    odd = functional.merge_neighbours(x[:, :3, :3])
    np.testing.assert_array_equal(odd[0, 1, 1], [*x[0, 2, 2], *np.zeros(6)])


@pytest.mark.parametrize("window", [2, 4, 7, 12])
def test_index_is_microsoft_s(window, tables):
    index = functional.relative_position_index((window, window))
    np.testing.assert_array_equal(index, tables[f"relative_position_index_w{window}"])


def test_index_is_timm_s():
    _, arrays = load_golden("ops/position_resize")
    square = functional.relative_position_index((4, 4))
    np.testing.assert_array_equal(square, arrays["gen_relative_position_index_4x4"])
    token = functional.relative_position_index((3, 4), class_token=True)
    expected = arrays["gen_relative_position_index_3x4_cls"]
    np.testing.assert_array_equal(token, expected)
    _, arrays = load_golden("ops/position_tables")
    index = functional.relative_position_index((8, 8))
    np.testing.assert_array_equal(index, arrays["swinv2_relative_position_index_w8"])


@pytest.mark.parametrize(
    ("name", "window", "options"),
    [
        ("swinv2_relative_coords_table_w8", 8, {}),
        ("swinv2_relative_coords_table_w8_pre6", 8, {"pretrained": (6, 6)}),
        ("log_coords_swin_7x7", 7, {}),
        ("log_coords_cr_7x7", 7, {"mode": "cr"}),
    ],
)
def test_log_spaced_coordinates_are_the_references(name, window, options):
    expected = load_golden("ops/position_tables")[1][name]
    coords = functional.log_spaced_coords((window, window), **options)
    assert coords.dtype == np.float32
    np.testing.assert_allclose(coords, expected.reshape(coords.shape), atol=1e-7)


def test_a_window_of_one_has_one_offset():
    np.testing.assert_array_equal(functional.log_spaced_coords((1, 1)), [[[0, 0]]])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "window"), [(8, 4), (14, 7), (56, 7), (24, 12)])
def test_mask_is_microsoft_s(size, window, tables):
    shift = window // 2
    mask = functional.shift_mask((size, size), (window, window), (shift, shift))
    expected = np.where(tables[f"attn_mask_res{size}_w{window}"], -100.0, 0.0)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("window", "size", "square", "expected"),
    [
        ((7, 7), (56, 56), False, ((7, 7), (3, 3))),
        ((7, 7), (7, 7), False, ((7, 7), (0, 0))),
        ((4, 4), (2, 8), False, ((2, 4), (0, 2))),
        ((4, 4), (2, 8), True, ((2, 2), (0, 0))),
        ((4, 4), (8, 12), True, ((4, 4), (2, 2))),
    ],
)
def test_windows_fit_small_maps(window, size, square, expected):
    assert functional.fit_window(window, size, square=square) == expected


def number_of_window(windows, mask):
    """Every token's window and, from the mask, how many tokens it may look at."""
    b, m, n, _ = windows.shape
    index = jnp.broadcast_to(jnp.arange(m)[None, :, None], (b, m, n))
    seen = jnp.full((m, n), n) if mask is None else (mask == 0).sum(-1)
    seen = jnp.broadcast_to(seen[None], (b, m, n))
    return jnp.stack([index, seen], -1).astype(windows.dtype)


def test_shifted_windows_roll_pad_attend_and_roll_back():
    x = jnp.zeros((1, 5, 5, 2))
    out = functional.over_windows(
        number_of_window, x, window=(3, 3), shift=(1, 1), shifted=True
    )
    window, seen = np.asarray(out[0, :, 0, 0]), np.asarray(out[0, :, 0, 1])
    # Rows, rolled: 1 2 3 | 4 0 and one of padding, which alone lies behind the cut.
    np.testing.assert_array_equal(window, [3, 1, 1, 1, 3])
    np.testing.assert_array_equal(seen, [4, 6, 6, 6, 4])


def test_a_traced_shift_equals_a_static_one():
    x = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))

    def attend(windows, mask):
        weights = jnp.einsum("bmic,bmjc->bmij", windows, windows)
        if mask is not None:
            weights = weights + mask[None]
        return jnp.einsum("bmij,bmjc->bmic", jax.nn.softmax(weights, -1), windows)

    def run(shifted):
        return functional.over_windows(
            attend, x, window=(3, 4), shift=(1, 2), shifted=shifted
        )

    traced, static = jit_once(run), jit_once(run, static_argnums=0)
    for shifted in (False, True):
        np.testing.assert_allclose(traced(shifted), static(shifted), atol=1e-6)
    assert jnp.abs(static(True) - static(False)).max() > 1e-2


def test_unit_vectors():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(functional.l2_normalize(x), [[0.6, 0.8], [0, 0]])
    grad = jax.grad(lambda x: functional.l2_normalize(x).sum())(x)
    assert jnp.isfinite(grad).all()

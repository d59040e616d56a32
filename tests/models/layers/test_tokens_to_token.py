"""T2T-ViT's stem and its maths."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from model_goldens import jit_once

from vit_jax_tricks.models.layers.functional import attention
from vit_jax_tricks.models.layers.functional.attention import (
    kernel_attention,
    positive_features,
)
from vit_jax_tricks.models.layers.functional.patches import unfold
from vit_jax_tricks.models.layers.functional.position_sincos import sinusoid_positions
from vit_jax_tricks.models.layers.tokens_to_token import TokenPerformer, TokensToToken


KEY = jax.random.key(0)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (7, 4, 2)])
def test_unfold_is_torch_s(size, stride, padding):
    _, arrays = load_golden("ops/basics")
    x = jnp.asarray(arrays["unfold_in"].transpose(0, 2, 3, 1))
    y = unfold(x, size, stride=stride, padding=padding)
    expected = arrays[f"unfold_k{size}s{stride}p{padding}"].transpose(0, 2, 1)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


def test_unfold_of_a_rectangle_is_row_major():
    x = jnp.arange(2 * 5 * 8 * 3.0).reshape(2, 5, 8, 3)
    y = unfold(x, 3, stride=2, padding=1)
    assert y.shape == (2, 3, 4, 27)
    window = x[1, 3:6, 5:8].transpose(2, 0, 1).reshape(-1)  # rows 3..5, one of padding
    inside = y[1, 2, 3].reshape(3, 3, 3)[:, :2]
    np.testing.assert_array_equal(inside.reshape(-1), window)
    assert not y[:, 2, :, 6::9].any()  # the last row of a window, in the padding


def test_sinusoids_are_the_reference_s():
    _, arrays = load_golden("ops/position_tables")
    table = sinusoid_positions(17, 32)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, arrays["t2t_sinusoid_17x32"])


def test_kernel_attention_estimates_softmax_attention():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 6, 8), np.float32)
    q, k = 0.3 * q, 0.3 * k  # larger ones need many more features
    w = rng.standard_normal((2**15, 8), np.float32)
    y = kernel_attention(positive_features(q, w), positive_features(k, w), v)
    heads = (jnp.asarray(x)[:, :, None] for x in (q, k, v))
    expected = attention(*heads, scale=1.0)[:, :, 0]
    np.testing.assert_allclose(y, expected, atol=0.03)  # of values of order one


def test_kernel_attention_of_features_that_underflow_is_finite():
    q = positive_features(jnp.full((1, 4, 8), 30.0), jnp.ones((3, 8)))
    assert not q.any()
    v = jnp.ones((1, 4, 8))
    grad = jax.grad(lambda v: kernel_attention(q, q, v).sum())(v)
    assert not grad.any()
    assert not kernel_attention(q, q, v).any()


def test_random_features_are_orthogonal_and_no_parameter():
    layer = TokenPerformer(16)
    variables = layer.init(KEY, jnp.zeros((1, 1, 3)), False)
    w = variables["batch_stats"]["w"]
    np.testing.assert_allclose(w @ w.T, 8 * np.eye(8), atol=1e-5)
    assert "w" not in variables["params"]


@pytest.mark.slow
def test_the_performer_drops_a_tenth_of_both_branches_in_training():
    layer = TokenPerformer(8)
    x = jnp.ones((50, 100, 3))
    shapes = jax.eval_shape(partial(layer.init, train=False), KEY, x)
    variables = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    params = variables["params"]
    params["proj"]["bias"] += 1.0
    params["mlp_2"]["bias"] += 10.0
    np.testing.assert_allclose(layer.apply(variables, x, False), 11)
    y = jit_once(partial(layer.apply, train=True))(variables, x, rngs={"dropout": KEY})
    kept = np.round(0.9 * np.asarray(y)).astype(int)  # 0, 1, 10 or 11
    assert set(np.unique(kept)) == {0, 1, 10, 11}
    for share in ((kept % 10 == 0).mean(), (kept < 10).mean()):
        assert share == pytest.approx(0.1, abs=0.01)


@pytest.mark.slow
def test_convolutions_are_soft_splits_with_linear_layers():
    stem = TokensToToken(12, 6, "convolution")
    x = jax.random.normal(KEY, (2, 32, 32, 3))
    y, variables = jit_once(partial(stem.init_with_output, train=False))(KEY, x)
    for name, (size, stride, padding) in {
        "soft_split0": (7, 4, 2),
        "soft_split1": (3, 2, 1),
        "project": (3, 2, 1),
    }.items():
        layer = variables["params"][name]
        kernel = layer["kernel"].transpose(2, 0, 1, 3).reshape(-1, layer["bias"].size)
        windows = unfold(x, size, stride=stride, padding=padding)
        x = windows @ kernel + layer["bias"][None, None, None]
        bound = kernel.shape[0] ** -0.5
        for leaf in (kernel, layer["bias"]):
            assert jnp.abs(leaf).max() <= bound
    assert y.shape == (2, 4, 12)
    np.testing.assert_allclose(y, x.reshape(y.shape), atol=1e-5)

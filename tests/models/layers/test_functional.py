"""The maths of the layers, against references and plain NumPy."""

import ast
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.models.layers import functional


KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_drop_path_arithmetic_is_timm_s(rate):
    _, arrays = load_golden("train/ema_droppath")
    mask = jnp.asarray(arrays[f"droppath_p{rate}_scale1_mask"])
    x = jnp.asarray(arrays["droppath_x"])
    y = functional.scale_kept(x, mask, 1 - rate)
    expected = arrays[f"droppath_p{rate}_scale1_out"]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize(("depth", "rate"), [(12, 0.1), (24, 0.3)])
def test_drop_path_rates_are_timm_s(depth, rate):
    _, arrays = load_golden("train/ema_droppath")
    expected = arrays[f"rates_depth{depth}_{rate}"]  # computed in float32
    rates = functional.drop_path_rates(rate, depth)
    np.testing.assert_allclose(rates, expected, atol=1e-8)
    assert functional.drop_path_rates(rate, 3, decay="constant") == [rate] * 3


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    x = jnp.ones((4096, 3, 2))
    y = functional.drop_path(KEY, x, 0.25)
    per_sample = y.reshape(4096, -1)
    assert bool((per_sample == per_sample[:, :1]).all())
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert float(y.mean()) == pytest.approx(1, abs=3 * (0.25 / 0.75 / 4096) ** 0.5)


def test_drop_path_at_its_ends():
    x = jnp.ones((8, 2), jnp.bfloat16)
    chex.assert_trees_all_equal(functional.drop_path(KEY, x, 0.0), x)
    assert not functional.drop_path(KEY, x, 1.0).any()
    traced = jax.jit(functional.drop_path)(KEY, x, jnp.float32(0.5))
    assert traced.dtype == jnp.bfloat16


def test_patch_dropout_keeps_a_different_subset_for_each_sample():
    x = jnp.broadcast_to(jnp.arange(18.0)[None, :, None], (64, 18, 2))
    y = functional.patch_dropout(KEY, x, 0.75, prefix=2)
    assert y.shape == (64, 2 + 4, 2)
    chex.assert_trees_all_equal(y[:, :2], x[:, :2])
    kept = np.sort(y[:, 2:, 0], axis=1)
    assert (kept[:, 0] >= 2).all()
    assert (np.diff(kept, axis=1) > 0).all()
    assert len({tuple(row) for row in kept}) > 50
    counts = np.bincount(kept.astype(int).ravel(), minlength=18)[2:]
    assert counts.min() > 4  # expected 16 of each


def test_patch_dropout_leaves_at_least_one_patch():
    y = functional.patch_dropout(KEY, jnp.ones((2, 5, 3)), 0.99, prefix=1)
    assert y.shape == (2, 2, 3)


def test_attention_against_numpy(x64):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 5, 4, 8))
    bias = rng.standard_normal((1, 4, 5, 5))
    logits = np.einsum("bngh,bmgh->bgnm", q, k) * 0.3 + bias
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bgnm,bmgh->bngh", weights, v)
    y = functional.attention(*map(jnp.asarray, (q, k, v)), scale=0.3, bias=bias)
    np.testing.assert_allclose(y, expected, atol=1e-13)


def test_attention_is_stable_for_large_logits_and_keeps_the_softmax_wide():
    x = 100 * jax.random.normal(KEY, (1, 6, 2, 8), jnp.bfloat16)
    weights = functional.attention_weights(x, x)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert functional.attention(x, x, x).dtype == jnp.bfloat16


def test_layer_norm_against_numpy_with_a_large_mean():
    """A one-pass variance would lose every digit here."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 64)) + 3000
    x32 = x.astype(np.float32)
    exact = x32.astype(np.float64)
    expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(
        exact.var(-1, keepdims=True) + 1e-6
    )
    y = functional.layer_norm(x32, np.ones(64, "f4"), np.zeros(64, "f4"), eps=1e-6)
    np.testing.assert_allclose(y, expected, atol=5e-4)


@pytest.mark.parametrize("p", [2, 4])
def test_patch_embedding_is_a_strided_convolution(p):
    x = jax.random.normal(KEY, (2, 8, 12, 3))
    kernel = jax.random.normal(KEY, (p, p, 3, 5))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (p, p), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = functional.patch_embed(x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("gelu", "gelu_exact"), ("gelu_tanh", "gelu_tanh"), ("quick_gelu", "quick_gelu")],
)
def test_activations_are_the_references(name, reference):
    _, arrays = load_golden("ops/basics")
    x = jnp.asarray(arrays["act_x"], jnp.float32)
    y = functional.ACTIVATIONS[name](x)
    np.testing.assert_allclose(y, arrays[f"act:{reference}"], atol=2e-6)


@pytest.mark.parametrize("eps", ["1e-6", "1e-5"])
def test_layer_norm_is_pytorch_s(eps):
    _, arrays = load_golden("ops/basics")
    x = arrays["act_x"].astype(np.float32)
    one, zero = np.ones(50, np.float32), np.zeros(50, np.float32)
    y = functional.layer_norm(x, one, zero, eps=float(eps))
    np.testing.assert_allclose(y, arrays[f"layernorm_eps{eps}"], atol=2e-6)
    small = x * np.float32(1e-3)  # epsilon is as large as the variance
    y = functional.layer_norm(small, one, zero, eps=float(eps))
    np.testing.assert_allclose(y, arrays[f"layernorm_tiny_eps{eps}"], atol=2e-6)


def test_the_maths_imports_neither_flax_nor_configs():
    files = sorted(Path(functional.__file__).parent.glob("*.py"))
    assert len(files) > 4
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
        assert not [n for n in names if n.startswith(("flax", "ml_collections"))]
        assert not [n for n in names if "config" in n or n.endswith("registry")]

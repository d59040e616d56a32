"""Scores of heads and neurons: what they mean, by hand and by removal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks.compress import scores
from vit_jax_tricks.errors import UserError


ATTENTION = {
    "mean": scores.mean_attention,
    "confidence": scores.attention_confidence,
    "entropy": scores.attention_entropy,
    "class": scores.class_attention,
}


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.fixture(scope="module")
def weights():
    """Attention of four heads, from nearly uniform to sharp."""
    sharpness = jnp.asarray([0.1, 1.0, 3.0, 10.0])[None, :, None, None]
    return jax.nn.softmax(sharpness * normal(6, 4, 9, 9), axis=-1)


def test_the_mean_of_a_softmax_is_the_same_for_every_head(weights):
    got = scores.mean_attention(weights)
    np.testing.assert_allclose(got, 1 / 9, rtol=1e-6)
    other = scores.attention_confidence(weights)
    assert float(other.max() / other.min()) > 2


def test_attention_scores_by_hand(weights):
    a = np.asarray(weights, np.float64)
    np.testing.assert_allclose(
        scores.attention_confidence(weights), a.max(-1).mean((0, 2)), rtol=1e-6
    )
    entropy = (a * np.log(a)).sum(-1).mean((0, 2)) / np.log(9)
    np.testing.assert_allclose(scores.attention_entropy(weights), entropy, rtol=1e-5)
    np.testing.assert_allclose(
        scores.class_attention(weights), 1 - a[:, :, 0, 0].mean(0), rtol=1e-5
    )
    two = 1 - a[:, :, 0, :2].sum(-1).mean(0)
    np.testing.assert_allclose(
        scores.class_attention(weights, prefix=2), two, rtol=1e-5
    )
    assert bool((jnp.diff(scores.attention_confidence(weights)) > 0).all())
    assert bool((jnp.diff(scores.attention_entropy(weights)) > 0).all())


def test_ends_of_the_scales():
    uniform = jnp.full((2, 3, 5, 5), 0.2)
    focused = jnp.broadcast_to(jnp.eye(5), (2, 3, 5, 5))
    np.testing.assert_allclose(scores.attention_entropy(uniform), -1, rtol=1e-6)
    np.testing.assert_array_equal(scores.attention_entropy(focused), 0)
    np.testing.assert_array_equal(scores.attention_confidence(focused), 1)
    np.testing.assert_array_equal(scores.class_attention(focused), 0)
    gradient = jax.grad(lambda a: scores.attention_entropy(a).sum())(focused)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("name", ATTENTION)
def test_jit_vmap_and_bfloat16(weights, name):
    score = ATTENTION[name]
    eager = score(weights)
    np.testing.assert_allclose(jax.jit(score)(weights), eager, rtol=1e-6)
    layers = jnp.stack([weights, weights[::-1]])
    both = jax.vmap(score)(layers)
    loop = jnp.stack([score(layer) for layer in layers])
    np.testing.assert_allclose(both, loop, rtol=1e-6)
    half = score(weights.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, eager, atol=1e-2)


def head_loss(gates, y, proj, target):
    out = jnp.einsum("bngh,ghd->bnd", y * gates[:, None, :, None], proj)
    return jnp.square(out - target).sum((1, 2)), out


def test_gate_gradients_are_autodiffs():
    y, proj, target = (
        normal(5, 7, 3, 4),
        normal(3, 4, 6, seed=1),
        normal(5, 7, 6, seed=2),
    )
    ones = jnp.ones((5, 3))
    want = jax.grad(lambda g: head_loss(g, y, proj, target)[0].sum())(ones)
    upstream = 2 * (head_loss(ones, y, proj, target)[1] - target)
    got = scores.gate_gradients(y, proj, upstream)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
    plain = scores.gate_importance(got, normalize=False)
    np.testing.assert_allclose(plain, np.abs(got).mean(0), rtol=1e-6)
    unit = scores.gate_importance(got)
    np.testing.assert_allclose(jnp.square(unit).sum(), 1, rtol=1e-6)
    layers = scores.gate_importance(jnp.stack([got, 9 * got], axis=1))
    np.testing.assert_allclose(layers[0], layers[1], rtol=1e-6)
    np.testing.assert_array_equal(scores.normalize_layers(jnp.zeros((2, 3))), 0)


def test_the_output_norm_is_that_of_what_the_head_adds():
    y, proj = normal(5, 7, 3, 4), normal(3, 4, 6, seed=1)
    each = np.linalg.norm(np.einsum("bngh,ghd->bngd", y, proj), axis=-1)
    got = jax.jit(scores.head_output_norm)(y, proj)
    np.testing.assert_allclose(got, each.mean((0, 1)), rtol=1e-5)
    dead = scores.head_output_norm(y.at[:, :, 1].set(0), proj)
    assert float(dead[1]) == 0
    hidden, fc2 = jax.nn.gelu(normal(5, 7, 8)), normal(8, 6, seed=3)
    got = scores.neuron_output_norm(hidden, fc2)
    want = np.abs(hidden).mean((0, 1)) * np.linalg.norm(fc2, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def mlp_loss(params, x):
    hidden = jnp.tanh(x @ params["fc1"] + params["bias"][None])
    return jnp.square(hidden @ params["fc2"]).sum()


@pytest.mark.slow
def test_taylor_is_the_first_order_change_of_the_loss():
    params = dict(fc1=normal(6, 8), bias=normal(8, seed=1), fc2=normal(8, 5, seed=2))
    x = normal(4, 6, seed=3)
    names, axes = ("fc1", "bias", "fc2"), (1, 0, 0)
    loss = functools.partial(mlp_loss, x=x)
    gradients = jax.grad(loss)(params)
    of = [params[n] for n in names], [gradients[n] for n in names], axes
    square = scores.taylor(*of, kind="square")
    for j in range(8):
        tangent = jax.tree.map(jnp.zeros_like, params)
        tangent["fc1"] = tangent["fc1"].at[:, j].set(params["fc1"][:, j])
        tangent["bias"] = tangent["bias"].at[j].set(params["bias"][j])
        tangent["fc2"] = tangent["fc2"].at[j].set(params["fc2"][j])
        change = jax.jvp(loss, (params,), (tangent,))[1]
        np.testing.assert_allclose(square[j], change**2, rtol=1e-3)
    absolute = scores.taylor(*of)
    assert bool((absolute**2 >= square * (1 - 1e-5)).all())
    want = sum(
        np.moveaxis(np.abs(w * g), a, 0).reshape(8, -1).sum(1)
        for w, g, a in zip(*of, strict=True)
    )
    np.testing.assert_allclose(absolute, want, rtol=1e-5)


def test_taylor_takes_heads_of_the_fused_kernels():
    qkv, bias, proj = (
        normal(6, 3, 4, 2),
        normal(3, 4, 2, seed=1),
        normal(4, 2, 6, seed=2),
    )
    got = scores.taylor([qkv, bias, proj], [qkv, bias, proj], (2, 1, 0))
    want = (
        np.square(qkv).sum((0, 1, 3))
        + np.square(bias).sum((0, 2))
        + np.square(proj).sum((1, 2))
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bad_calls_stop():
    weights = jnp.full((1, 2, 4, 4), 0.25)
    for prefix in (0, 4):
        with pytest.raises(UserError, match="needs a class token and patches"):
            scores.class_attention(weights, prefix=prefix)
    w = jnp.ones((2, 3))
    with pytest.raises(UserError, match='kind="l2" is unknown'):
        scores.taylor([w], [w], (0,), kind="l2")
    with pytest.raises(UserError, match=r"hold \[2, 3\] structures"):
        scores.taylor([w, w], [w, w], (0, 1))

"""Focal losses: the reference values of their four forms and what sets them apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_checks import both_precisions

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError


FORMS = {
    "focal": losses.focal,
    "focal_pt": losses.focal_pt,
    "focal_modulated": losses.focal_modulated,
    "focal_of_cross_entropy": losses.focal_of_cross_entropy,
}
LOGITS = [[2, -1, 0.5, 0, -0.5], [0.1, 0.2, 0.3, 0.4, 0.5]]
HARD = np.eye(5)[[0, 3]]
KINDS = {
    "hard": HARD,
    "smoothed": 0.9 * HARD + 0.1 / 5,
    "mixed": 0.6 * HARD + 0.4 * HARD[::-1],
}
MEANS = {  # alpha 0.25, gamma 2
    "hard": [0.12129460] * 4,
    "smoothed": [0.14512452, 0.12546025, 0.12745995, 0.13129249],
    "mixed": [0.23579641, 0.16396997, 0.17960098, 0.20622277],
}


@both_precisions
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_values(form, kind, dtype):
    logits, labels = jnp.asarray(LOGITS, dtype), jnp.asarray(KINDS[kind], dtype)
    loss = FORMS[form](logits=logits, labels=labels)
    assert loss.dtype == dtype
    want = MEANS[kind][list(FORMS).index(form)]
    atol = 1e-8 if dtype == "float64" else 1e-7  # the values have eight digits
    np.testing.assert_allclose(loss.mean(), want, rtol=0, atol=atol)


@both_precisions
def test_the_combination(dtype):
    logits, labels = jnp.asarray(LOGITS, dtype), jnp.asarray(HARD, dtype)
    smoothed = losses.softmax_cross_entropy(logits=logits, labels=labels, smoothing=0.1)
    np.testing.assert_allclose(smoothed.mean(), 1.05420947, atol=1e-6)
    both = losses.smoothed_focal(logits=logits, labels=labels)
    np.testing.assert_allclose(both.mean(), 0.77433503, atol=1e-6)
    even, true = jnp.zeros((1, 1000), dtype), jnp.eye(1, 1000, dtype=dtype)
    at_first = losses.focal(logits=even, labels=true)
    np.testing.assert_allclose(at_first, 1.723487, rtol=1e-6)
    at_first = losses.smoothed_focal(logits=even, labels=true)
    np.testing.assert_allclose(at_first, 5.352475, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2, 3.5])
@pytest.mark.parametrize("form", FORMS)
def test_formula_and_gradient(form, gamma, dtype):
    """Against numpy's plain formulas and central differences."""
    rng = np.random.default_rng(1)
    z, q = rng.normal(size=(4, 6)), rng.dirichlet(np.ones(6), size=4)

    def plain(z):
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        ce, t = -(q * np.log(p)).sum(-1), (q * p).sum(-1)
        return (
            0.4
            * {
                "focal": -(q * (1 - p) ** gamma * np.log(p)).sum(-1),
                "focal_pt": -((1 - t) ** gamma) * np.log(t),
                "focal_modulated": (1 - t) ** gamma * ce,
                "focal_of_cross_entropy": (1 - np.exp(-ce)) ** gamma * ce,
            }[form]
        )

    loss = functools.partial(FORMS[form], labels=jnp.asarray(q), alpha=0.4, gamma=gamma)
    np.testing.assert_allclose(loss(logits=jnp.asarray(z)), plain(z), rtol=1e-12)
    grad = jax.grad(lambda z: loss(logits=z).sum())(jnp.asarray(z))
    step = 1e-5 * np.eye(6)
    want = [(plain(z + d) - plain(z - d)) / 2e-5 for d in step]
    np.testing.assert_allclose(grad, np.stack(want, 1), rtol=1e-6, atol=1e-8)


def test_without_focus_it_is_the_cross_entropy():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(HARD, jnp.float32)
    want = losses.softmax_cross_entropy(logits=logits, labels=labels)
    for loss in FORMS.values():
        got = loss(logits=logits, labels=labels, alpha=1, gamma=0)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = losses.smoothed_focal(logits=logits, labels=labels, focal_weight=1)
    want = losses.focal(logits=logits, labels=labels)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_only_the_per_class_form_mixes_like_its_labels():
    logits = jnp.asarray(LOGITS)
    mixed, one, two = (
        jnp.asarray(x, jnp.float32) for x in (KINDS["mixed"], HARD, HARD[::-1])
    )
    for name, loss in FORMS.items():
        parts = 0.6 * loss(logits=logits, labels=one) + 0.4 * loss(
            logits=logits, labels=two
        )
        gap = jnp.abs(loss(logits=logits, labels=mixed) - parts).max()
        assert (gap < 1e-6) == (name == "focal")


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_certain_predictions_have_finite_gradients(form, gamma):
    """Where p rounds to 1 or to 0, for one-hot, mixed and all-zero labels."""
    labels = jnp.asarray([[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0, 0]], jnp.float32)
    for scale in (20.0, 100.0, 1e4, 1e30):
        logits = scale * jnp.asarray([[1.0, 0.0, -1.0]] * 4)

        def total(z):
            return FORMS[form](logits=z, labels=labels, gamma=gamma)

        loss, pull = jax.vjp(total, logits)
        assert bool(jnp.isfinite(loss).all())
        np.testing.assert_allclose(loss[0], 0, atol=1e-6)
        np.testing.assert_array_equal(loss[3], 0)
        (grad,) = pull(jnp.ones(4))
        assert bool(jnp.isfinite(grad).all())
        np.testing.assert_array_equal(grad[3], 0)


def test_bad_input():
    given = dict(logits=jnp.asarray(LOGITS), labels=jnp.asarray(HARD, jnp.float32))
    for name in ("alpha", "gamma"):
        for loss in FORMS.values():
            with pytest.raises(UserError, match=f"{name}=-1: expected {name} >= 0"):
                loss(**given, **{name: -1})
    with pytest.raises(UserError, match="0 <= focal_weight <= 1"):
        losses.smoothed_focal(**given, focal_weight=1.5)
    with pytest.raises(UserError, match="0 <= smoothing < 1"):
        losses.smoothed_focal(**given, smoothing=1.0)

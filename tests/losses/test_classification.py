"""Classification losses against timm and torch."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/losses/classification.npz")
SOFTMAX = losses.softmax_cross_entropy
SIGMOID = losses.sigmoid_binary_cross_entropy
CASES = {
    "cross_entropy": (SOFTMAX, "labels", {}),
    "label_smoothing_0.1": (SOFTMAX, "labels", dict(smoothing=0.1)),
    "torch_label_smoothing_0.1": (SOFTMAX, "labels", dict(smoothing=0.1)),
    "soft_target": (SOFTMAX, "soft_targets", {}),
    "bce_with_logits_soft": (SIGMOID, "soft_targets", {}),
    "timm_bce_smooth0.1_int": (SIGMOID, "labels", dict(smoothing=0.1)),
    "timm_bce_soft_threshold0.1": (
        SIGMOID,
        "soft_targets",
        dict(target_threshold=0.1),
    ),
    "timm_bce_sum_classes_soft": (SIGMOID, "soft_targets", dict(sum_classes=True)),
}


def assert_case(case, dtype, tolerance):
    loss, kind, options = CASES[case]
    logits = jnp.asarray(GOLDEN["logits"], dtype)
    labels = GOLDEN[kind]
    labels = np.eye(20)[labels] if labels.ndim == 1 else labels
    fn = functools.partial(loss, labels=jnp.asarray(labels, dtype), **options)
    value, grad = jax.value_and_grad(lambda z: fn(logits=z).mean())(logits)
    np.testing.assert_allclose(value, GOLDEN[f"loss:{case}"], rtol=tolerance)
    want = GOLDEN[f"grad:{case}"]
    np.testing.assert_allclose(grad, want, rtol=tolerance, atol=tolerance / 10)
    assert fn(logits=logits).shape == (8,)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_reference_float64(case):
    assert_case(case, jnp.float64, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_reference_float32(case):
    assert_case(case, jnp.float32, 2e-5)


@pytest.mark.parametrize("loss", [SOFTMAX, SIGMOID])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_finite_in_float32_for_huge_logits(loss, dtype):
    logits = jnp.asarray([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]], dtype)
    labels = jnp.asarray([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])

    def total(z):
        return loss(logits=z, labels=labels, smoothing=0.1).sum()

    assert loss(logits=logits, labels=labels).dtype == jnp.float32
    value, grad = jax.jit(jax.value_and_grad(total))(logits)
    assert bool(jnp.isfinite(value))
    assert grad.dtype == dtype
    assert bool(jnp.isfinite(grad).all())


@pytest.mark.parametrize("loss", [SOFTMAX, SIGMOID])
def test_where_silences_examples_and_leading_axes_are_free(loss):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, 3, 5)), jnp.float32)
    labels = jax.nn.softmax(jnp.asarray(rng.standard_normal((2, 3, 5)), jnp.float32))
    where = jnp.array([[True, False, True], [False, False, True]])
    each = loss(logits=logits, labels=labels)
    masked = loss(logits=logits, labels=labels, where=where)
    np.testing.assert_array_equal(masked, np.where(where, each, 0))
    flat = loss(logits=logits.reshape(6, 5), labels=labels.reshape(6, 5))
    np.testing.assert_allclose(each.reshape(6), flat, rtol=1e-6)


def test_smoothing_keeps_the_mass_and_timms_true_class():
    labels = jnp.eye(4)[:2]
    out = losses.smooth_labels(labels, smoothing=0.1)
    np.testing.assert_allclose(out.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(out[0], [0.925, 0.025, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_array_equal(losses.smooth_labels(labels, smoothing=0.0), labels)


def test_threshold_makes_both_mixed_classes_positive():
    labels = jnp.asarray([[0.3, 0.7, 0.0]])
    both = jnp.asarray([[1.0, 1.0, 0.0]])
    logits = jnp.asarray([[0.2, -1.0, 3.0]])
    got = SIGMOID(logits=logits, labels=labels, target_threshold=0.0)
    np.testing.assert_allclose(got, SIGMOID(logits=logits, labels=both), rtol=1e-6)
    with pytest.raises(UserError, match="set smoothing=0"):
        SIGMOID(logits=logits, labels=labels, target_threshold=0.0, smoothing=0.1)

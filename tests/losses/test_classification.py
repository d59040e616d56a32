"""Classification losses against timm and torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from loss_checks import assert_close, both_precisions

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError


_, GOLDEN = load_golden("losses/classification")
_, OPTIONS = load_golden("losses/options")
SOFTMAX = losses.softmax_cross_entropy
SIGMOID = losses.sigmoid_binary_cross_entropy
W, V = OPTIONS["weight"], OPTIONS["pos_weight"]
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
    "bce_weight": (SIGMOID, "labels", dict(smoothing=0.1, weight=W)),
    "bce_pos_weight": (SIGMOID, "labels", dict(pos_weight=V)),
    "bce_pos_weight_3_sum": (
        SIGMOID,
        "multi_hot",
        dict(pos_weight=3, sum_classes=True),
    ),
    "bce_dense_smoothing": (SIGMOID, "multi_hot", dict(binary_smoothing=0.2)),
    "bce_dense_threshold": (
        SIGMOID,
        "multi_hot",
        dict(binary_smoothing=0.2, target_threshold=0.3, weight=W),
    ),
}


@both_precisions
@pytest.mark.parametrize("case", CASES)
def test_reference(case, dtype):
    golden = GOLDEN if f"loss:{case}" in GOLDEN else OPTIONS
    loss, kind, options = CASES[case]
    logits = jnp.asarray(golden["logits"], dtype)
    labels = golden[kind]
    labels = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels
    fn = functools.partial(loss, labels=jnp.asarray(labels, dtype), **options)
    value, grad = jax.jit(jax.value_and_grad(lambda z: fn(logits=z).mean()))(logits)
    assert_close(value, golden[f"loss:{case}"], dtype)
    assert_close(grad, golden[f"grad:{case}"], dtype)
    assert jax.eval_shape(fn, logits=logits).shape == logits.shape[:1]


def test_smoothing_keeps_the_mass_and_timms_true_class():
    labels = jnp.eye(4)[:2]
    out = losses.smooth_labels(labels, smoothing=0.1)
    np.testing.assert_allclose(out.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(out[0], [0.925, 0.025, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_array_equal(losses.smooth_labels(labels, smoothing=0.0), labels)
    for smoothing in (-0.1, 1):
        with pytest.raises(UserError, match=f"smoothing={smoothing}"):
            losses.smooth_labels(labels, smoothing=smoothing)


def test_threshold_makes_both_mixed_classes_positive():
    labels = jnp.asarray([[0.3, 0.7, 0.0]])
    both = jnp.asarray([[1.0, 1.0, 0.0]])
    logits = jnp.asarray([[0.2, -1.0, 3.0]])
    got = SIGMOID(logits=logits, labels=labels, target_threshold=0.0)
    np.testing.assert_allclose(got, SIGMOID(logits=logits, labels=both), rtol=1e-6)
    for name in ("smoothing", "binary_smoothing"):
        with pytest.raises(UserError, match=f"set {name}=0"):
            SIGMOID(logits=logits, labels=labels, target_threshold=0, **{name: 0.1})
        with pytest.raises(UserError, match=f"0 <= {name} < 1"):
            SIGMOID(logits=logits, labels=labels, **{name: 1.5})


def test_the_batch_mean_with_padding():
    loss = jnp.asarray([1.0, 2.0, jnp.nan])
    where = jnp.asarray([True, True, False])
    np.testing.assert_allclose(losses.mean_where(loss, where), 1.5)
    np.testing.assert_allclose(losses.mean_where(loss, ~where | where), jnp.nan)
    np.testing.assert_array_equal(losses.mean_where(loss, where & ~where), 0)
    rows = losses.mean_where(
        jnp.stack([loss, loss]), jnp.stack([where, ~where]), axis=1
    )
    np.testing.assert_allclose(rows, [1.5, np.nan])

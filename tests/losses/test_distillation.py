"""Distillation against DeiT's program and timm's task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from loss_checks import arrays_of, assert_close, both_precisions

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError


_, GOLDEN = load_golden("losses/deit_distillation")
_, OPTIONS = load_golden("losses/options")
CASES = sorted(k.removeprefix("loss:") for k in GOLDEN if k.startswith("loss:"))


@both_precisions
@pytest.mark.parametrize("case", CASES)
def test_deit(case, dtype):
    """DistillationLoss: (1 - alpha) of the label's loss, alpha of the teacher's."""
    kind, alpha, tau = case.split("_")
    alpha, tau = float(alpha.removeprefix("alpha")), float(tau.removeprefix("tau"))
    names = ("outputs", "outputs_kd", "teacher_logits", "soft_targets")
    *heads, teacher, labels = arrays_of(GOLDEN, dtype, *names)

    def deit(out, second):
        loss = losses.softmax_cross_entropy(logits=out, labels=labels)
        pair = dict(logits=second, teacher_logits=teacher)
        if kind == "none":
            return loss.mean()
        if kind == "soft":
            taught = losses.soft_distillation(**pair, tau=tau, scaling="deit")
        else:
            taught = losses.hard_distillation(**pair)
        return ((1 - alpha) * loss + alpha * taught).mean()

    value, grads = jax.value_and_grad(deit, (0, 1))(*heads)
    assert_close(value, GOLDEN[f"loss:{case}"], dtype)
    assert_close(grads[0], GOLDEN[f"grad_out:{case}"], dtype)
    assert_close(grads[1], GOLDEN[f"grad_kd:{case}"], dtype)


@both_precisions
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_timm(tau, dtype):
    logits, teacher = arrays_of(OPTIONS, dtype, "logits", "teacher_logits")

    def mean(z):
        return losses.soft_distillation(
            logits=z, teacher_logits=teacher, tau=tau
        ).mean()

    value, grad = jax.value_and_grad(mean)(logits)
    assert_close(value, OPTIONS[f"loss:timm_kd_tau{tau:g}"], dtype)
    assert_close(grad, OPTIONS[f"grad:timm_kd_tau{tau:g}"], dtype)


def test_the_two_scalings_differ_by_the_number_of_classes():
    z, teacher = arrays_of(OPTIONS, "float32", "logits", "teacher_logits")
    textbook = losses.soft_distillation(logits=z, teacher_logits=teacher)
    deit = losses.soft_distillation(logits=z, teacher_logits=teacher, scaling="deit")
    np.testing.assert_allclose(textbook, 9 * deit, rtol=1e-6)


def test_no_gradient_reaches_the_teacher():
    z, teacher = arrays_of(OPTIONS, "float32", "logits", "teacher_logits")
    for loss, by in (
        (losses.soft_distillation, "teacher_logits"),
        (losses.hard_distillation, "teacher_logits"),
        (losses.feature_distillation, "teacher_features"),
    ):
        mine = "features" if by == "teacher_features" else "logits"
        grad = jax.grad(lambda t, f=loss, m=mine, b=by: f(**{m: z, b: t}).sum())(
            teacher
        )
        np.testing.assert_array_equal(grad, 0)


def test_bad_input():
    z = jnp.zeros((2, 3))
    with pytest.raises(UserError, match="tau=0: expected a temperature above 0"):
        losses.soft_distillation(logits=z, teacher_logits=z, tau=0)
    with pytest.raises(
        UserError, match=r'scaling="diet": unknown. Did you mean "deit"'
    ):
        losses.soft_distillation(logits=z, teacher_logits=z, scaling="diet")
    with pytest.raises(UserError, match="smoothing=2"):
        losses.hard_distillation(logits=z, teacher_logits=z, smoothing=2)

"""DynamicViT's loss for models that drop tokens, against its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from loss_checks import arrays_of, assert_close, both_precisions
from quick import sparse

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError


_, GOLDEN = load_golden("losses/dynamicvit_distill")
RATIOS = (0.7, 0.49, 0.343)


@both_precisions
@pytest.mark.parametrize("mse", sparse([0, 1], every=2))
@pytest.mark.parametrize("dynamic", sparse([0, 1], every=2))
def test_dynamicvit(mse, dynamic, dtype):
    names = ("pred", "token_pred", "decision_1", "decision_2", "decision_3")
    inputs = tuple(arrays_of(GOLDEN, dtype, *names))
    names = ("teacher_cls", "teacher_tokens", "soft_targets")
    teacher, teacher_tokens, labels = arrays_of(GOLDEN, dtype, *names)

    def parts(pred, tokens, *decisions):
        keep = jnp.stack(decisions)
        kept = keep[-1] > 0.5
        ratio = losses.keep_ratio(keep=keep, ratios=RATIOS, per_batch=bool(dynamic))
        taught = losses.soft_distillation(logits=pred, teacher_logits=teacher, tau=1)
        if mse:
            each = losses.feature_distillation(
                features=tokens, teacher_features=teacher_tokens, where=kept
            )
        else:
            each = losses.soft_distillation(
                logits=tokens, teacher_logits=teacher_tokens, tau=1, where=kept
            )
        assert each.shape == (4, 16)
        label = losses.softmax_cross_entropy(logits=pred, labels=labels)
        token = losses.mean_where(each, kept)
        return label.mean(), ratio.mean(), taught.mean(), token

    def total(*inputs):
        label, ratio, taught, token = parts(*inputs)
        return label + 2 * ratio + 0.5 * taught + 0.5 * token

    case = f"mse{mse}_dynamic{dynamic}"
    label, ratio, taught, token = GOLDEN[f"parts_cls_ratio_clskl_tokenkl:{case}"]
    for got, want in zip(
        parts(*inputs), (label, ratio / 3, taught, token), strict=True
    ):
        assert_close(got, want, dtype)
    value, grads = jax.value_and_grad(total, (0, 1, 2))(*inputs)
    assert_close(value, GOLDEN[f"loss:{case}"], dtype)
    for grad, name in zip(grads, ("pred", "token", "decision_1"), strict=True):
        assert_close(grad, GOLDEN[f"grad_{name}:{case}"], dtype)


def test_where_no_token_is_kept():
    features = jnp.full((2, 3, 4), 1e4)
    none = jnp.zeros((2, 3), bool)

    def loss(x):
        each = losses.feature_distillation(features=x, teacher_features=-x, where=none)
        return losses.mean_where(each, none)

    value, grad = jax.value_and_grad(loss)(features)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_bad_input():
    keep = jnp.ones((2, 3, 4))
    for ratios in ((0.5,), (0.5, 1.5)):
        with pytest.raises(UserError, match="expected 2 shares, one for each stage"):
            losses.keep_ratio(keep=keep, ratios=ratios)

"""The classification term for models with a dense head, against TokenLabeling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.augment.mix_token import mix_tokens
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.objectives.classification import Classification


BOXES = {"nobox": None, "box1032": (1, 3, 0, 2)}  # y0, y1, x0, x1


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_dense_head_and_mix_token_are_the_reference_s(box, weight, x64):
    """TokenLabelCrossEntropy with one label for an image, and its gradients."""
    _, arrays = load_golden("losses/token_label")
    term = Classification(name="softmax", dense_weight=weight)
    labels = jnp.asarray(arrays["target2"], jnp.float64)

    def loss(logits, dense):
        given = {"logits_aux": dense}
        if BOXES[box]:
            share = mix_tokens(jnp.zeros((4, 3, 3, 1)), jnp.asarray(BOXES[box]))[1]
            given["mix_lam"] = share
        each = term(logits=logits, labels=labels, **given)
        assert each.shape == (4,)
        return each.mean()

    inputs = (arrays[k].astype(np.float64) for k in ("cls_logits", "aux_logits"))
    value, grads = jax.value_and_grad(loss, (0, 1))(*map(jnp.asarray, inputs))
    case = f"{box}_gt0_dense{weight:g}_t2"
    np.testing.assert_allclose(value, arrays[f"loss:{case}"], rtol=0, atol=1e-9)
    if weight == 0.5:
        for grad, name in zip(grads, ("grad_cls", "grad_aux"), strict=True):
            np.testing.assert_allclose(grad, arrays[f"{name}:{case}"], atol=1e-9)


def test_without_weight_the_dense_head_is_left_alone():
    logits, labels = jnp.zeros((2, 3)), jnp.eye(3)[:2]
    given = {"logits_aux": jnp.full((2, 4, 3), jnp.nan)}
    term = Classification(name="softmax", dense_weight=0.0)
    loss = term(logits=logits, labels=labels, **given)
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    with pytest.raises(UserError, match="dense_weight=-1"):
        Classification(name="softmax", dense_weight=-1.0)

"""The Jensen-Shannon consistency loss against timm's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from loss_checks import assert_close, both_precisions

from vit_jax_tricks import losses


_, GOLDEN = load_golden("losses/classification")


def timm_jsd(logits, labels):
    """timm's JsdCrossEntropy with alpha 12, smoothing 0.1; one view after another."""
    views = logits.reshape(3, -1, logits.shape[-1])
    clean = losses.softmax_cross_entropy(logits=views[0], labels=labels, smoothing=0.1)
    return (clean + 12 * losses.jensen_shannon(logits=views)).mean()


@pytest.mark.slow
@both_precisions
def test_timm(dtype):
    logits = jnp.asarray(GOLDEN["jsd_logits"], dtype)
    labels = jnp.asarray(np.eye(20)[GOLDEN["jsd_labels"][:4]], dtype)
    value, grad = jax.value_and_grad(timm_jsd)(logits, labels)
    assert_close(value, GOLDEN["loss:jsd_splits3_alpha12_smooth0.1"], dtype)
    assert_close(grad, GOLDEN["grad:jsd"], dtype)


def test_equal_views_agree_and_huge_logits_stay_finite():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 7)), jnp.float32)
    same = losses.jensen_shannon(logits=jnp.repeat(z, 3, axis=0))
    np.testing.assert_allclose(same, 0, atol=1e-6)
    two = jnp.asarray([[[1e4, -1e4]], [[-1e4, 1e4]]], jnp.bfloat16)
    loss, grad = jax.value_and_grad(lambda z: losses.jensen_shannon(logits=z).sum())(
        two
    )
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)  # as far apart as can be
    assert bool(jnp.isfinite(grad).all())
    none = losses.jensen_shannon(logits=z, where=jnp.zeros(5, bool))
    np.testing.assert_array_equal(none, 0)

"""Contrastive losses against open_clip, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from jax.sharding import NamedSharding, PartitionSpec
from loss_checks import arrays_of, assert_close, both_precisions

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.sharding import make_mesh


_, GOLDEN = load_golden("losses/clip_contrastive")
FEATURES = ("image_features", "text_features")


def mean(loss):
    def of(images, texts, *numbers):
        names = ("scale", "bias")[: len(numbers)]
        given = dict(zip(names, numbers, strict=True))
        return loss(image_features=images, text_features=texts, **given).mean()

    return of


@pytest.mark.slow
@both_precisions
@pytest.mark.parametrize("scale", ["14.29", "1", "100"])
def test_clip(scale, dtype):
    inputs = [*arrays_of(GOLDEN, dtype, *FEATURES), jnp.asarray(float(scale), dtype)]
    loss = jax.value_and_grad(mean(losses.clip_contrastive), (0, 1, 2))
    value, grads = loss(*inputs)
    case = f"scale{scale}"
    if scale == "14.29":  # the exact number is 1 / 0.07
        inputs[2] = jnp.asarray(1 / 0.07, dtype)
        value, grads = loss(*inputs)
    assert_close(value, GOLDEN[f"clip:{case}"], dtype)
    for grad, name in zip(grads, ("image", "text", "scale"), strict=True):
        assert_close(grad, GOLDEN[f"grad_{name}:{case}"], dtype)


@both_precisions
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (20.0, -3.0)])
def test_siglip(scale, bias, dtype):
    numbers = (jnp.asarray(scale, dtype), jnp.asarray(bias, dtype))
    inputs = (*arrays_of(GOLDEN, dtype, *FEATURES), *numbers)
    loss = jax.value_and_grad(mean(losses.siglip_contrastive), (0, 2, 3))
    value, grads = loss(*inputs)
    case = f"scale{scale:g}_bias{bias:g}"
    assert_close(value, GOLDEN[f"siglip:{case}"], dtype)
    for grad, name in zip(grads, ("image", "scale", "bias"), strict=True):
        assert_close(grad, GOLDEN[f"siglip_grad_{name}:{case}"], dtype)


@pytest.mark.parametrize("dtype", ["float64"])
def test_smoothing_is_that_of_the_cross_entropy(dtype):
    """Rows and columns, as ALIGN has it; the bias changes nothing."""
    images, texts = arrays_of(GOLDEN, dtype, *FEATURES)
    z = 3 * images @ texts.T
    want = sum(
        losses.softmax_cross_entropy(logits=x, labels=jnp.eye(6), smoothing=0.1)
        for x in (z, z.T)
    )
    loss = functools.partial(losses.clip_contrastive, smoothing=0.1, scale=3)
    for bias in (0, -7):
        got = loss(image_features=images, text_features=texts, bias=bias)
        np.testing.assert_allclose(got, want / 2, rtol=1e-12)
    with pytest.raises(UserError, match="smoothing=1: expected 0 <= smoothing < 1"):
        losses.clip_contrastive(
            image_features=images, text_features=texts, scale=3, smoothing=1
        )


@pytest.mark.parametrize("loss", [losses.clip_contrastive, losses.siglip_contrastive])
def test_eight_devices_give_what_one_does(loss):
    rng = np.random.default_rng(3)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in rng.normal(size=(2, 16, 8))
    ]
    inputs = [jnp.asarray(x, jnp.float32) for x in unit]
    inputs += [jnp.asarray(20.0), jnp.asarray(-5.0)]
    fn = jax.jit(jax.value_and_grad(mean(loss), (0, 1, 2, 3)))
    want, want_grads = fn(*inputs)
    split = NamedSharding(make_mesh(), PartitionSpec(("data", "fsdp")))
    sharded = [jax.device_put(x, split) for x in inputs[:2]]
    got, grads = fn(*sharded, *inputs[2:])
    assert len(sharded[0].sharding.device_set) == 8
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

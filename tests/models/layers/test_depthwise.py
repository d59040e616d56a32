"""Depthwise convolutions on the CPU equal XLA's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.models.layers.functional.depthwise import grouped_conv


def arrays(c=6, k=3, h=9, w=8, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, h, w, c), dtype)
    return images, jax.random.normal(keys[1], (k, k, 1, c), dtype)


def reference(images, kernel, strides, padding, groups):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 4, 5])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", [(1, 1), (0, 2)]], ids=str)
def test_equal_to_xla_with_gradients(k, strides, padding):
    images, kernel = arrays(k=k)
    ours = functools.partial(
        grouped_conv,
        strides=strides,
        padding=padding,
        feature_group_count=6,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    want = reference(images, kernel, strides, padding, 6)
    np.testing.assert_allclose(ours(images, kernel), want, atol=1e-5)
    np.testing.assert_allclose(jax.jit(ours)(images, kernel), want, atol=1e-5)

    def loss(conv, images, kernel):
        return jnp.sin(conv(images, kernel)).sum()

    theirs = functools.partial(reference, strides=strides, padding=padding, groups=6)
    got = jax.grad(functools.partial(loss, ours), argnums=(0, 1))(images, kernel)
    want = jax.grad(functools.partial(loss, theirs), argnums=(0, 1))(images, kernel)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert count_flops(ours, images, kernel) == count_flops(theirs, images, kernel)


def test_bfloat16_adds_up_in_float32():
    images, kernel = arrays(dtype=jnp.bfloat16, k=5)
    wide = images.astype(jnp.float32), kernel.astype(jnp.float32)
    layer = functools.partial(
        grouped_conv, strides=(1, 1), padding="SAME", feature_group_count=6
    )
    layer = functools.partial(layer, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    out = layer(images, kernel)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, layer(*wide).astype(jnp.bfloat16))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("dilation", [1, 2])
def test_any_layer_may_use_it(groups, dilation):
    """Whatever is not depthwise goes to XLA as it is."""
    images, _ = arrays()
    options = dict(feature_group_count=groups, kernel_dilation=dilation)
    plain = nn.Conv(6, (3, 3), **options)
    ours = nn.Conv(6, (3, 3), conv_general_dilated=grouped_conv, **options)
    variables = plain.init(jax.random.key(1), images)
    want = plain.apply(variables, images)
    np.testing.assert_allclose(ours.apply(variables, images), want, atol=1e-6)

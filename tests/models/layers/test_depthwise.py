"""Depthwise convolutions on the CPU equal XLA's own."""

import functools
import itertools

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


PADDINGS = ["SAME", "VALID", [(1, 1), (0, 2)]]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 4, 5])
def test_equal_to_xla_with_gradients(k):
    images, kernel = arrays(k=k)
    cases = list(itertools.product([(1, 1), (2, 2), (2, 1)], PADDINGS))
    ours = [
        functools.partial(
            grouped_conv,
            strides=strides,
            padding=padding,
            feature_group_count=6,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for strides, padding in cases
    ]
    theirs = [
        functools.partial(reference, strides=strides, padding=padding, groups=6)
        for strides, padding in cases
    ]

    def loss(images, kernel, conv):
        out = conv(images, kernel)
        return jnp.sin(out).sum(), out

    @jax.jit  # one program for all
    def run(images, kernel):
        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return [[grad(images, kernel, conv) for conv in c] for c in (ours, theirs)]

    rows = zip(cases, *run(images, kernel), strict=True)
    for case, (got, out), (want, expected) in rows:
        np.testing.assert_allclose(out, expected, atol=1e-5, err_msg=str(case))
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=str(case))
    for case, one, other in zip(cases, ours, theirs, strict=True):
        costs = [count_flops(conv, images, kernel) for conv in (one, other)]
        assert costs[0] == costs[1], case


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

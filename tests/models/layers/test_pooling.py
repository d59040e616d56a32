"""Pooling, padding and folding of maps against PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.models.layers.conv import conv2d
from vit_jax_tricks.models.layers.functional.patches import fold, unfold
from vit_jax_tricks.models.layers.functional.pooling import (
    avg_pool,
    downsample,
    max_pool,
)


ONE = ((1, 1), (1, 1))


@pytest.fixture(scope="module")
def arrays():
    return load_golden("ops/basics")[1]


@pytest.mark.parametrize(
    ("reference", "pool"),
    [
        ("avgpool2", lambda x: avg_pool(x, 2, 2)),
        ("avgpool2", lambda x: downsample(x, "avg2")),
        ("avgpool2_ceil", lambda x: avg_pool(x, 2, 2, ((0, 1), (0, 1)))),
        ("avgpool3s2p1_countpad", lambda x: avg_pool(x, 3, 2, ONE, count_pads=True)),
        ("maxpool3s2p1", lambda x: max_pool(x, 3, 2, ONE)),
        ("maxpool3s2p1", lambda x: downsample(x, "max")),
    ],
)
def test_pooling_is_pytorch_s(arrays, reference, pool):
    y = pool(jnp.asarray(arrays["pool_x"].transpose(0, 2, 3, 1)))
    expected = arrays[reference].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, atol=1e-7)


def test_means_leave_the_padding_out_or_count_it():
    x = jnp.ones((1, 4, 4, 1))
    assert (downsample(x, "avg") == 1).all()
    corner = downsample(x, "avg", same=True)[0, -1, -1, 0]
    assert float(corner) == pytest.approx(4 / 9)  # SAME pads at the end
    assert (downsample(-x, "max") == -1).all()
    assert downsample(x[:, :3], "max2").shape == (1, 1, 2, 1)


@pytest.mark.parametrize(
    ("reference", "padding"), [("conv_s2p1", ""), ("conv_s2_tfsame", "same")]
)
def test_strided_convolutions_pad_like_pytorch_or_tensorflow(
    arrays, reference, padding
):
    conv = conv2d(4, 3, stride=2, padding=padding, use_bias=False)
    params = {"kernel": jnp.asarray(arrays["conv_weight"].transpose(2, 3, 1, 0))}
    x = jnp.asarray(arrays["pool_x"].transpose(0, 2, 3, 1))
    y = conv.apply({"params": params}, x)
    expected = arrays[reference].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    # Here the map is odd and both pad alike; an even one shows the difference.
    even = conv.apply({"params": params}, x[:, :6, :8])
    pads = ((0, 0), (0, 1), (0, 1), (0, 0)) if padding else ((0, 0), *ONE, (0, 0))
    by_hand = jax.lax.conv_general_dilated(
        jnp.pad(x[:, :6, :8], pads),
        params["kernel"],
        (2, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(even, by_hand, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5)])
def test_folding_is_unfolding_transposed(shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    window = {"stride": 2, "padding": 1}
    cut = partial(unfold, size=3, **window)
    other = jax.random.normal(jax.random.key(1), jax.eval_shape(cut, x).shape)

    @jax.jit
    def transposed(x, other):
        return jax.vjp(cut, x)[1](other)[0]

    folded = jax.jit(partial(fold, size=3, shape=shape, **window))(other)
    np.testing.assert_allclose(folded, transposed(x, other), atol=1e-5)

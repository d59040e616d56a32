"""Integer products against the stored int8 linear layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.compress import (
    dequantize,
    fake_quant,
    grid,
    int8_linear,
    integer_dot,
    quantize,
)
from vit_jax_tricks.errors import UserError


MANIFEST, ARRAYS = load_golden("quant/int8_linear")
X_SCALE, X_ZERO = jnp.float32(MANIFEST["x_scale"]), MANIFEST["x_zero_point"]
UINT8, INT8 = grid("uint8"), grid("int8")


def test_the_stored_layer():
    w_scale = ARRAYS["w_scale"]
    qx = quantize(ARRAYS["x"], X_SCALE, X_ZERO, grid=UINT8)
    qw = quantize(ARRAYS["w"], w_scale[:, None], grid=INT8)
    np.testing.assert_array_equal(qx, ARRAYS["qx"])
    np.testing.assert_array_equal(qw, ARRAYS["qw"])
    assert (qx.dtype, qw.dtype) == (jnp.uint8, jnp.int8)
    np.testing.assert_array_equal(integer_dot(qx, qw.T, X_ZERO), ARRAYS["accumulator"])
    y = int8_linear(
        qx, qw.T, x_scale=X_SCALE, kernel_scale=w_scale, x_zero_point=X_ZERO
    )
    np.testing.assert_allclose(y, ARRAYS["y"], rtol=1e-6, atol=1e-7)
    fake = fake_quant(ARRAYS["x"], X_SCALE, X_ZERO, grid=UINT8) @ (
        fake_quant(ARRAYS["w"], w_scale[:, None], grid=INT8).T
    )
    np.testing.assert_allclose(y, fake, atol=1e-6)


@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint6", "float8_e4m3fn"])
def test_dequantised_is_fake_quantised(name):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
    scale = jnp.asarray(rng.uniform(0.01, 0.1, (1, 7)), jnp.float32)
    zero = None if name.startswith("f") else jnp.full((1, 7), 3, jnp.int32)
    stored = quantize(x, scale, zero, grid=grid(name))
    assert stored.dtype == grid(name).dtype
    np.testing.assert_array_equal(
        dequantize(stored, scale, zero), fake_quant(x, scale, zero, grid=grid(name))
    )


def test_extremes_add_up_without_overflow_and_jit_equals_eager():
    x = jnp.full((2, 3, 4096), 255, jnp.uint8)
    kernel = jnp.full((4096, 2), -128, jnp.int8)
    for dot in (integer_dot, jax.jit(integer_dot)):
        np.testing.assert_array_equal(dot(x, kernel, 0), -255 * 128 * 4096)
    signed = jnp.full((1, 8), -128, jnp.int8)
    np.testing.assert_array_equal(
        integer_dot(signed, jnp.full((8, 1), -128, jnp.int8), None), 8 * 2**14
    )


def test_bias_is_float_and_other_dtypes_stop():
    x, kernel = jnp.ones((2, 3), jnp.int8), jnp.ones((3, 4), jnp.int8)
    got = int8_linear(
        x, kernel, x_scale=0.5, kernel_scale=jnp.ones(4), bias=jnp.arange(4.0)
    )
    np.testing.assert_array_equal(got, 1.5 + np.arange(4.0) + np.zeros((2, 1)))
    with pytest.raises(UserError, match="got int32 x"):
        integer_dot(x.astype(jnp.int32), kernel, None)
    with pytest.raises(UserError, match="uint8 kernel"):
        integer_dot(x, kernel.astype(jnp.uint8), None)

"""Fake quantisation against torch, bit for bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks import compress
from vit_jax_tricks.compress import Grid, fake_quant, grid
from vit_jax_tricks.errors import UserError


TENSOR = load_golden("quant/fake_quant_per_tensor")
CHANNEL = load_golden("quant/fake_quant_per_channel")
INT8 = grid("int8")


def pulled(x, upstream, *rest, grid):
    y, back = jax.vjp(lambda x: fake_quant(x, *rest, grid=grid), x)
    return y, back(upstream)[0]


compiled_once = jax.jit(pulled, static_argnames="grid")


def run(x, upstream, *rest, grid, compiled=False):
    fn = compiled_once if compiled else pulled
    return fn(jnp.asarray(x), jnp.asarray(upstream), *rest, grid=grid)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", TENSOR[0]["cases"], ids=lambda case: case[0])
def test_per_tensor_is_torchs(case, compiled):
    key, scale, zero_point, low, high = case
    arrays = TENSOR[1]
    scale, zero_point = jnp.float32(scale), jnp.int32(zero_point)
    got = run(
        arrays["x"],
        arrays["upstream"],
        scale,
        zero_point,
        grid=Grid(low, high),
        compiled=compiled,
    )
    np.testing.assert_array_equal(got[0], arrays[f"y:{key}"])
    np.testing.assert_array_equal(got[1], arrays[f"dx:{key}"])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CHANNEL[0]["cases"], ids=lambda case: case[0])
def test_per_channel_is_torchs(case, compiled):
    key, tensor, axis, low, high = case
    arrays = CHANNEL[1]
    x = arrays[f"x:{tensor}"]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    scale = arrays[f"scale:{key}"].reshape(shape)
    zero_point = arrays[f"zero_point:{key}"].reshape(shape)
    upstream = arrays[f"upstream:{tensor}"]
    got = run(x, upstream, scale, zero_point, grid=Grid(low, high), compiled=compiled)
    np.testing.assert_array_equal(got[0], arrays[f"y:{key}"])
    np.testing.assert_array_equal(got[1], arrays[f"dx:{key}"])


def test_ties_go_to_the_even_number_and_ends_pass_their_gradient():
    x = jnp.asarray([0.5, 1.5, 2.5, -0.5, 127.0, 127.4, 127.6, -128.4, -128.6])
    y, dx = run(x, jnp.ones(9), 1.0, grid=INT8)
    np.testing.assert_array_equal(y, [0, 2, 2, 0, 127, 127, 127, -128, -128])
    np.testing.assert_array_equal(dx, [1, 1, 1, 1, 1, 1, 0, 1, 0])


def test_the_largest_weight_keeps_its_gradient_and_its_value():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    scale = jnp.abs(w).max(0, keepdims=True) / 127
    y, dx = run(w, jnp.ones_like(w), scale, grid=grid("int8_narrow"))
    np.testing.assert_array_equal(dx, 1)
    np.testing.assert_allclose(jnp.abs(y).max(0), jnp.abs(w).max(0), rtol=1e-6)
    assert float(jnp.abs(y - w).max() / scale.max()) <= 0.5 + 1e-5


def test_quantising_twice_changes_nothing():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(40,)), jnp.float32)
    for name in ("int8", "uint8", "int4_narrow", "float8_e4m3fn", "float8_e5m2"):
        once = fake_quant(x, 0.25, grid=grid(name))
        np.testing.assert_array_equal(fake_quant(once, 0.25, grid=grid(name)), once)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_round_as_ml_dtypes(name):
    rng = np.random.default_rng(2)
    top = grid(name).high
    powers = 2.0 ** rng.uniform(-20, np.log2(top), 4000)
    every = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, name))
    every = np.sort(every.astype(np.float32)[np.isfinite(every.astype(np.float32))])
    between = (every[1:] + every[:-1]) / 2
    x = np.concatenate([powers, -powers, every, between]).astype(np.float32)
    y, dx = run(x, np.ones_like(x), 1.0, grid=grid(name))
    want = x.astype(getattr(ml_dtypes, name)).astype(np.float32)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(dx, 1)
    y, dx = run(
        np.float32([2 * top, -1e30]), np.ones(2, np.float32), 1.0, grid=grid(name)
    )
    np.testing.assert_array_equal(y, [top, -top])
    np.testing.assert_array_equal(dx, 0)


@pytest.mark.parametrize("name", ["int8", "uint4", "float8_e4m3fn"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_finite_at_extremes_in_the_dtype_of_the_input(name, dtype):
    x = jnp.asarray([0.0, 1e38, -1e38, 1e-38, jnp.inf, -jnp.inf], dtype)
    for scale in (0.0, 1e-38, 1.0, 1e30):
        y, dx = run(x, jnp.ones_like(x), scale, grid=grid(name))
        assert y.dtype == dx.dtype == dtype
        assert bool(jnp.isfinite(dx).all())
        assert bool(jnp.isfinite(y[:4]).all())


def test_vmap_equals_a_loop():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5, 6)), jnp.float32)
    scale = jnp.asarray([0.1, 0.2, 0.3, 0.4])

    def one(x, scale):
        return fake_quant(x, scale, grid=INT8)

    np.testing.assert_array_equal(
        jax.vmap(one)(x, scale),
        jnp.stack([one(a, s) for a, s in zip(x, scale, strict=True)]),
    )


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64():
    x = jnp.linspace(-1, 1, 7)
    assert x.dtype == fake_quant(x, 0.1, grid=INT8).dtype == jnp.float64


def test_grids_have_their_ends():
    ends = {
        "int8": (-128, 127, jnp.int8),
        "int8_narrow": (-127, 127, jnp.int8),
        "uint8": (0, 255, jnp.uint8),
        "int4": (-8, 7, jnp.int8),
        "uint6": (0, 63, jnp.int8),
        "float8_e4m3fn": (-448, 448, jnp.float8_e4m3fn),
        "float8_e5m2": (-57344, 57344, jnp.float8_e5m2),
    }
    for name, (low, high, dtype) in ends.items():
        found = grid(name)
        assert (found.low, found.high, found.dtype) == (low, high, dtype)
    assert Grid(-300, 300).dtype == jnp.int16


@pytest.mark.parametrize("name", ["int9", "int1", "uint8_narrow", "float8", "INT8"])
def test_unknown_grids_stop(name):
    with pytest.raises(UserError, match=f'grid "{name}" is unknown'):
        grid(name)


def test_bad_shapes_and_grids_stop():
    x = jnp.ones((2, 3))
    with pytest.raises(UserError, match=r"scale of shape \(3,\) does not fit"):
        fake_quant(x, jnp.ones(3), grid=INT8)
    with pytest.raises(UserError, match="zero_point of shape"):
        fake_quant(x, 1.0, jnp.zeros((2, 2), jnp.int32), grid=INT8)
    with pytest.raises(UserError, match="no zero point"):
        fake_quant(x, 1.0, 3, grid=grid("float8_e5m2"))
    for ends in ((1, 5), (-5, 0), (-0.5, 3)):
        with pytest.raises(UserError, match="must hold 0 between two whole numbers"):
            Grid(*ends)
    with pytest.raises(UserError, match="more than 16 bits"):
        Grid(-1, 2**17)


def test_power_of_two_steps_cover_the_range():
    scales = jnp.asarray([0.3, 0.25, 0.5000001, 1.0, 3e-5, 7.0])
    got = compress.next_power_of_two(scales)
    np.testing.assert_array_equal(got, 2.0 ** np.ceil(np.log2(np.float64(scales))))

"""Learned steps against torch's learnable fake quantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.compress import Grid, grid, learned_fake_quant, learned_step


MANIFEST, ARRAYS = load_golden("quant/lsq")
TENSOR = [case for case in MANIFEST["cases"] if case[1] != "scale array"]
CHANNEL = [case for case in MANIFEST["cases"] if case[1] == "scale array"]


def pull(x, upstream, scale, zero_point, **options):
    def run(x, scale, zero_point):
        return learned_fake_quant(x, scale, zero_point, **options)

    y, back = jax.vjp(run, x, scale, zero_point)
    return y, *back(upstream)


@pytest.mark.parametrize("case", TENSOR, ids=lambda case: case[0])
def test_per_tensor_is_torchs(case):
    key, scale, zero_point, low, high, factor = case
    ours = pull(
        ARRAYS["x"],
        ARRAYS["upstream"],
        jnp.float32(scale),
        jnp.float32(zero_point),
        grid=Grid(low, high),
        grad_factor=factor,
    )
    y, dx, ds, dz = ours
    np.testing.assert_array_equal(y, ARRAYS[f"y:{key}"])
    np.testing.assert_array_equal(dx, ARRAYS[f"dx:{key}"])
    np.testing.assert_allclose(ds, ARRAYS[f"dscale:{key}"][0], rtol=5e-6)
    np.testing.assert_allclose(dz, ARRAYS[f"dzp:{key}"][0], rtol=2e-6)
    if key.endswith("glsq"):  # the factor that is the default
        again = pull(
            ARRAYS["x"],
            ARRAYS["upstream"],
            jnp.float32(scale),
            jnp.float32(zero_point),
            grid=Grid(low, high),
        )
        np.testing.assert_allclose(again[2], ds, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case[0])
def test_gradients_of_the_step_in_float64(case):
    key, scale, zero_point, low, high, factor = case
    x, upstream = ARRAYS["x"], ARRAYS["upstream"]
    if scale == "scale array":
        x, upstream = ARRAYS["w"], ARRAYS["upstream_w"]
        scale = ARRAYS[f"scale:{key}"][:, None]
    ds = pull(
        x.astype(np.float64),
        upstream.astype(np.float64),
        jnp.asarray(np.float32(scale), jnp.float64),
        jnp.float64(zero_point),
        grid=Grid(low, high),
        grad_factor=factor,
    )[2]
    np.testing.assert_allclose(np.ravel(ds), ARRAYS[f"dscale:{key}"], rtol=1e-6)


@pytest.mark.parametrize("case", CHANNEL, ids=lambda case: case[0])
@pytest.mark.parametrize("default", [False, True])
def test_per_channel_is_torchs(case, default):
    key, _, zero_point, low, high, factor = case
    x, upstream = ARRAYS["w"], ARRAYS["upstream_w"]
    scale = jnp.asarray(ARRAYS[f"scale:{key}"])[:, None]
    y, dx, ds, _ = pull(
        x,
        upstream,
        scale,
        jnp.float32(zero_point),
        grid=Grid(low, high),
        grad_factor=None if default else factor,
    )
    np.testing.assert_array_equal(y, ARRAYS[f"y:{key}"])
    np.testing.assert_array_equal(dx, ARRAYS[f"dx:{key}"])
    # x / s is good to 1e-6 in float32, and the sum over a channel nearly cancels.
    np.testing.assert_allclose(ds[:, 0], ARRAYS[f"dscale:{key}"], rtol=2e-6, atol=1e-7)
    first = learned_step(x, grid=Grid(low, high), axes=(1,))
    want = 2 * np.abs(x).mean(1) / high**0.5
    np.testing.assert_allclose(first[:, 0], want, rtol=1e-6)


def test_the_step_learns_the_range_of_its_data():
    x = jnp.asarray(np.random.default_rng(0).normal(size=4096), jnp.float32)
    four = grid("int4")

    @jax.jit
    def error(step):
        return jnp.square(learned_fake_quant(x, step, grid=four) - x).mean()

    steps = jnp.linspace(0.1, 1.0, 91)
    best = float(steps[jnp.argmin(jnp.stack([error(s) for s in steps]))])
    step, gradient = jnp.float32(0.9), jax.jit(jax.grad(error))
    for _ in range(300):
        step = step - 3.0 * gradient(step)
    assert abs(float(step) - best) < 0.05


def test_a_step_below_zero_stays_finite_and_its_gradient_pushes_it_back():
    x = jnp.asarray([-2.0, 0.0, 3.0])
    y, dx, ds, _ = pull(x, x - 0, jnp.float32(-0.1), jnp.float32(0), grid=grid("int8"))
    assert all(bool(jnp.isfinite(a).all()) for a in (y, dx, ds))

    def loss(step):
        return jnp.square(learned_fake_quant(x, step, grid=grid("int8")) - x).sum()

    assert float(jax.grad(loss)(jnp.float32(-0.1))) < 0


def test_jit_and_vmap_equal_eager():
    x = jnp.asarray(ARRAYS["x"])
    steps = jnp.asarray([0.05, 0.1, 0.3])

    def pulled(step):
        return jax.value_and_grad(
            lambda s: (learned_fake_quant(x, s, grid=grid("int4")) ** 3).sum()
        )(step)

    eager = [pulled(s) for s in steps]
    for value, grads in (jax.vmap(pulled)(steps), jax.jit(jax.vmap(pulled))(steps)):
        np.testing.assert_allclose(value, [v for v, _ in eager], rtol=1e-5)
        np.testing.assert_allclose(grads, [g for _, g in eager], rtol=1e-4)

"""Observers against torch's, the clipping searches against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks.compress import (
    affine_range,
    clipping,
    grid,
    observers,
    symmetric_range,
)
from vit_jax_tricks.errors import UserError


ARRAYS = load_golden("quant/observers")[1]
BATCHES = ARRAYS["batches"]


def after_each_batch(update, state):
    """The state after 1, 2, ... batches; compiled, and the same as eager."""
    states, compiled = [], state
    for batch in BATCHES:
        state, compiled = update(state, batch), jax.jit(update)(compiled, batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, compiled
        )
        states.append(state)
    return states


def check(name, ranges, rtol=0.0):
    for i, found in enumerate(ranges):
        want = ARRAYS[f"scale:{name}"][i]
        np.testing.assert_allclose(np.ravel(found.scale), want, rtol=rtol)
        zero_point = 0 if found.zero_point is None else np.ravel(found.zero_point)
        np.testing.assert_array_equal(zero_point, ARRAYS[f"zero_point:{name}"][i])


def test_min_max_is_torchs_bit_for_bit():
    states = after_each_batch(observers.min_max, observers.empty_min_max())
    check("minmax_affine_uint8", [affine_range(*s, grid=grid("uint8")) for s in states])
    for name in ("int8", "int4"):
        half = [symmetric_range(*s, grid=grid(name), half_range=True) for s in states]
        check(f"minmax_symmetric_{name}", half)
    largest = np.abs(BATCHES).max()
    full = symmetric_range(*states[-1], grid=grid("int8"))
    np.testing.assert_allclose(full.scale * 127, largest, rtol=1e-6)


def test_moving_averages_are_torchs():
    def update(constant):
        return lambda s, x: observers.moving_average(s, x, constant=constant)

    states = after_each_batch(update(0.1), observers.empty_min_max())
    ranges = [affine_range(*s, grid=grid("uint8")) for s in states]
    check("moving0.1_affine_uint8", ranges, rtol=2e-7)
    states = after_each_batch(update(0.01), observers.empty_min_max())
    ranges = [symmetric_range(*s, grid=grid("int8"), half_range=True) for s in states]
    check("moving0.01_symmetric_int8", ranges, rtol=2e-7)


def test_channels_are_torchs_bit_for_bit():
    def update(state, x):
        return observers.min_max(state, x, axes=(1,))

    states = after_each_batch(update, observers.empty_min_max())
    assert states[0].low.shape == (8, 1)
    ranges = [symmetric_range(*s, grid=grid("int8"), half_range=True) for s in states]
    check("perchannel0_symmetric_int8", ranges)


def test_the_histogram_search_is_torchs():
    states = after_each_batch(observers.histogram, observers.empty_histogram())
    uint8 = grid("uint8")
    limits = jax.jit(lambda s: clipping.l2_limits(s, grid=uint8))
    ranges = [affine_range(*limits(s), grid=uint8) for s in states]
    check("histogram_affine_uint8", ranges, rtol=2e-7)
    np.testing.assert_allclose(states[-1].counts.sum(), BATCHES.size, rtol=1e-6)


def test_unsigned_symmetric_grids_have_torchs_middle_or_none():
    low, high = jnp.float32(-1), jnp.float32(2)
    half = symmetric_range(low, high, grid=grid("uint8"), half_range=True)
    assert (float(half.scale), int(half.zero_point)) == (np.float32(2 / 127.5), 128)
    four = symmetric_range(low, high, grid=grid("uint4"), half_range=True)
    assert (float(four.scale), int(four.zero_point)) == (np.float32(2 / 7.5), 7)
    full = symmetric_range(low, high, grid=grid("uint8"))
    assert (float(full.scale), full.zero_point) == (np.float32(2 / 255), None)


def test_an_empty_range_has_a_positive_step_and_keeps_zero():
    zero = jnp.zeros(3)
    for name in ("int8", "uint4"):
        for found in (
            affine_range(zero, zero, grid=grid(name)),
            symmetric_range(zero, zero, grid=grid(name)),
        ):
            assert bool((found.scale > 0).all())
    found = affine_range(jnp.float32(3), jnp.float32(4), grid=grid("uint8"))
    assert int(found.zero_point) == 0
    with pytest.raises(UserError, match="make the range symmetric"):
        affine_range(zero, zero, grid=grid("float8_e5m2"))


@pytest.fixture(scope="module")
def absolute():
    """A histogram of |x| of heavy tails, and its bins' edges."""
    rng = np.random.default_rng(0)
    state = observers.empty_histogram(512)
    for scale in (1.0, 3.0, 2.0):
        x = scale * rng.standard_t(4, size=(20, 500))
        state = observers.histogram(state, jnp.float32(x), absolute=True)
    return state, np.linspace(0, float(state.high), 513)


def test_percentiles_count_from_both_ends(absolute):
    state, edges = absolute
    counts = np.asarray(state.counts, np.float64)
    for percentile in (50.0, 99.0, 99.9):
        got = clipping.percentile_limits(state, percentile=percentile).high
        index = np.searchsorted(np.cumsum(counts) / counts.sum(), percentile / 100)
        np.testing.assert_allclose(got, edges[index], rtol=1e-5)
    x = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    both = observers.histogram(observers.empty_histogram(), x + 1)
    low, high = clipping.percentile_limits(both, percentile=99.0)
    np.testing.assert_allclose([low, high], [1 - 2.326, 1 + 2.326], atol=0.05)
    for wrong in (0.0, 101.0):
        with pytest.raises(UserError, match="must be over 0 and at most 100"):
            clipping.percentile_limits(both, percentile=wrong)


@pytest.mark.parametrize("name", ["int8", "int4", "float8_e4m3fn"])
def test_squared_error_is_least_among_the_bin_centres(absolute, name):
    state, edges = absolute
    counts, centres = np.asarray(state.counts), (edges[1:] + edges[:-1]) / 2
    high, dtype = grid(name).high, grid(name).dtype

    def error(amax):
        step = amax / high
        if name.startswith("float8"):
            rounded = np.clip(centres / step, -high, high).astype(dtype)
            rounded = rounded.astype(np.float64) * step
        else:
            rounded = np.clip(np.round(centres / step), -high - 1, high) * step
        return ((rounded - centres) ** 2 * counts).sum()

    low, amax = clipping.mse_limits(state, grid=grid(name), start_bin=16)
    assert float(low) == -float(amax)
    best = min(error(c) for c in centres[16:])
    assert error(float(amax)) <= best * (1 + 1e-4)


def plain_entropy(counts, start, merged):
    """The least KL divergence, one candidate after another."""
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    found = []
    for i in range(start, len(counts) + 1):
        kept = counts[:i]
        level = np.digitize(np.arange(i), np.linspace(0, i, merged + 1)) - 1
        q = np.zeros(i)
        for j in range(merged):
            here = (level == j) & (kept > 0)
            if here.any():
                q[here] = kept[here].mean()
        p = kept.copy()
        p[-1] += counts[i:].sum()
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore"):
            terms = p[p > 0] * np.log(p[p > 0] / q[p > 0])
        found.append(terms.sum())
    return np.array(found)


@pytest.mark.parametrize("name", ["int8", "int4", "uint4"])
def test_entropy_is_least_among_all_clippings(absolute, name):
    state, edges = absolute
    losses = plain_entropy(np.asarray(state.counts), 128, int(grid(name).high) + 1)
    limits = jax.jit(lambda s: clipping.entropy_limits(s, grid=grid(name)))
    low, amax = limits(state)
    assert float(low) == -float(amax)
    chosen = int(np.argmin(np.abs(edges - float(amax)))) - 128
    assert losses[chosen] <= losses.min() + 1e-5


def test_values_that_lie_in_one_point_are_held():
    two = jnp.full(50, 2.0)
    state = observers.histogram(observers.empty_histogram(), two)
    state = observers.histogram(state, two)
    assert float(state.counts.sum()) == 100
    low, high = clipping.l2_limits(state, grid=grid("uint8"))
    assert (float(low), float(high)) == (2, 2)
    wider = observers.histogram(state, jnp.linspace(-1.0, 3.0, 9))
    assert float(wider.counts.sum()) == 109
    assert float(wider.counts[1536]) >= 100  # where 2 lies between -1 and 3


@pytest.mark.slow
def test_vmap_equals_a_loop():
    x = jnp.asarray(BATCHES)
    empty = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (5, *a.shape)), observers.empty_histogram(64)
    )
    many = jax.vmap(observers.histogram)(empty, x)
    for i in range(5):
        one = observers.histogram(observers.empty_histogram(64), x[i])
        np.testing.assert_array_equal(many.counts[i], one.counts)
        limits = clipping.l2_limits(one, grid=grid("uint4"))
        batched = jax.lax.map(lambda s: clipping.l2_limits(s, grid=grid("uint4")), many)
        np.testing.assert_allclose(batched.high[i], limits.high, rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 1.5])
def test_moving_average_constants_are_shares(constant):
    with pytest.raises(UserError, match="over 0 and at most 1"):
        observers.moving_average(
            observers.empty_min_max(), jnp.ones(3), constant=constant
        )

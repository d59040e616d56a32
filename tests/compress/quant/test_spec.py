"""Every observer and option of a spec, through the calibration of a small model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks.compress import Spec, calibrate, clipping, observers
from vit_jax_tricks.compress.quant import spec


class Relu(nn.Module):
    """A layer behind a nonlinearity, so that its input is never negative."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3, name="layer")(nn.relu(x)), {}


BATCHES = [
    (1 + i) * np.random.default_rng(i).standard_t(5, (2, 8, 8, 16)).astype(np.float32)
    for i in range(3)
]
SEEN = [np.maximum(batch, 0) for batch in BATCHES]
LARGEST = max(batch.max() for batch in SEEN)


def range_of(**fields):
    rules = ((r"layer/input", Spec(**fields)), (r".*", None))
    variables = jax.eval_shape(Relu().init, jax.random.key(0), BATCHES[0])
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
    return calibrate(Relu(), variables, BATCHES, rules)["layer/input"]


def test_min_max_symmetric_affine_and_unsigned():
    np.testing.assert_allclose(range_of().scale, LARGEST / 127, rtol=1e-6)
    half = range_of(half_range=True)
    np.testing.assert_allclose(half.scale, LARGEST / 127.5, rtol=1e-6)
    unsigned = range_of(grid="uint8")
    np.testing.assert_allclose(unsigned.scale, LARGEST / 255, rtol=1e-6)
    assert unsigned.zero_point is None
    affine = range_of(grid="int8", symmetric=False)
    np.testing.assert_allclose(affine.scale, LARGEST / 255, rtol=1e-6)
    assert int(affine.zero_point) == -128
    power = range_of(power_of_two=True)
    assert float(jnp.log2(power.scale)) == np.ceil(np.log2(LARGEST / 127))


def test_moving_average_and_mean():
    high = SEEN[0].max()
    for batch in SEEN[1:]:
        high = high + 0.1 * (batch.max() - high)
    found = range_of(observer="moving_average", constant=0.1)
    np.testing.assert_allclose(found.scale, high / 127, rtol=1e-6)
    mean = np.mean([np.abs(batch).mean() for batch in SEEN])
    found = range_of(observer="mean_abs", grid="int4", learned=True)
    np.testing.assert_allclose(found.scale, 2 * mean / 7**0.5, rtol=1e-5)


def test_fixed_ranges_see_no_data():
    found = range_of(observer="fixed", fixed=(0.0, 1.0), grid="uint8")
    np.testing.assert_allclose(found.scale, 1 / 255, rtol=1e-6)
    found = range_of(observer="fixed", fixed=(0.0, 1.0))
    np.testing.assert_allclose(found.scale, 1 / 127, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_histograms_clip_the_tail(observer, symmetric):
    four = dict(grid="int4" if symmetric else "uint4", symmetric=symmetric)
    found = range_of(observer=observer, percentile=99.0, **four)
    levels = 7 if symmetric else 15
    clip = float(found.scale) * levels
    assert 0.05 * LARGEST < clip < LARGEST
    if not symmetric:
        assert int(found.zero_point) == 0
    state = observers.empty_histogram()
    for batch in SEEN:
        state = observers.histogram(state, batch, absolute=True)
    if observer == "mse" and symmetric:
        want = clipping.mse_limits(state, grid=Spec(**four).values).high
    elif observer == "entropy":
        want = clipping.entropy_limits(state, grid=Spec(**four).values).high
    elif observer == "percentile":
        want = np.percentile(np.concatenate([s.ravel() for s in SEEN]), 99)
    else:
        return  # torch's search, which has its own test
    np.testing.assert_allclose(clip, want, rtol=1e-2)


def test_a_learned_affine_zero_point_is_a_float():
    found = range_of(symmetric=False, learned=True)
    assert found.zero_point.dtype == jnp.float32
    x = jnp.linspace(-1.0, 3.0, 20)
    one = Spec(symmetric=False, learned=True)
    gradient = jax.grad(lambda r: one.apply(x, r).sum())(found)
    assert float(gradient.zero_point) != 0


@pytest.mark.slow
def test_stacked_states_are_the_states_of_the_layers():
    """`calibrate` keeps a leading axis for layers; every observer must allow it."""
    x = jnp.asarray(BATCHES[0][:, 0, 0])
    for name in ("min_max", "moving_average", "percentile", "mean_abs", "entropy"):
        one = Spec(observer=name)
        update = jax.vmap(lambda state, x, one=one: spec.update(one, state, x))
        empty = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (2, *leaf.shape)), spec.empty(one)
        )
        states = update(empty, x[:, None])
        for i in range(2):
            alone = spec.update(one, spec.empty(one), x[i][None])
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6),
                states,
                alone,
            )

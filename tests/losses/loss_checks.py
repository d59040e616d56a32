"""What the tests of losses share: the accuracy asked for, properties of any loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE)


def assert_close(got, want, dtype):
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def assert_pure(loss, arrays):
    """jit equals eager, and vmap over one more axis equals a loop."""
    one = loss(**arrays)
    np.testing.assert_allclose(jax.jit(loss)(**arrays), one, rtol=1e-5, atol=1e-6)
    two = {k: jnp.stack([v, v[::-1]]) for k, v in arrays.items()}
    many = jax.jit(jax.vmap(lambda kw: loss(**kw)))(two)
    for i in range(2):
        alone = loss(**{k: v[i] for k, v in two.items()})
        np.testing.assert_allclose(many[i], alone, rtol=1e-5, atol=1e-6)


def assert_finite(loss, arrays, by):
    """The loss and its gradient by one argument are finite."""

    def total(x):
        return loss(**arrays | {by: x}).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(arrays[by])
    assert grad.dtype == arrays[by].dtype
    assert bool(jnp.isfinite(value))
    assert bool(jnp.isfinite(grad).all())


def arrays_of(golden, dtype, *names):
    return (jnp.asarray(golden[name], dtype) for name in names)

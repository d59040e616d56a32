"""What every loss does to its arrays: float32 or better, and masks that silence."""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Bool, Float, Num


Number: TypeAlias = float | int


def prepared(where: Bool[Array, "*b"] | None, *arrays: Num[Array, "..."]) -> list:
    """The arrays in float32, or in float64 where the first is, zero outside `where`.

    `where` covers their leading axes. What it leaves out may be anything, even NaN: it
    reaches neither the loss nor a gradient.
    """
    dtype = jnp.float64 if arrays[0].dtype == jnp.float64 else jnp.float32

    def one(x: Array) -> jax.Array:
        x = jnp.asarray(x).astype(dtype)
        if where is None:
            return x
        kept = where.reshape(*where.shape, *[1] * (x.ndim - where.ndim))
        return jnp.where(kept, x, 0)

    return [one(x) for x in arrays]


def masked(loss: Num[Array, "*b"], where: Bool[Array, "*b"] | None) -> jax.Array:
    """The loss, and 0 outside `where`."""
    return jnp.asarray(loss) if where is None else jnp.where(where, loss, 0)


def over_labelled(
    log: Float[Array, "*b k"], labels: Float[Array, "*b k"]
) -> Float[Array, "*b k"]:
    """The logarithms, 0 where one is infinite and its label 0: 0 log 0 is 0.

    A class whose logit is -inf then adds neither to a loss nor to a gradient.
    """
    return jnp.where(jnp.isinf(log) & (labels == 0), 0, log)


@checked
def mean_where(
    values: Num[Array, "*b"],
    where: Bool[Array, "*b"] | None = None,
    *,
    axis: int | None = None,
) -> jax.Array:
    """The mean of the values in `where`, along an axis or over all; 0 where none is.

    The batch mean of a loss with padding: sum(values where) / max(count, 1).
    """
    if where is None:
        return jnp.mean(values, axis=axis)
    count = jnp.sum(where, axis=axis, dtype=values.dtype)
    return jnp.sum(masked(values, where), axis=axis) / jnp.maximum(count, 1)

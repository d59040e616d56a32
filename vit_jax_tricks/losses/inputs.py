"""Shared preparation of loss inputs: float32 or better, and masking."""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Bool, Float, Num


Number: TypeAlias = float | int


def prepared(where: Bool[Array, "*b"] | None, *arrays: Num[Array, "..."]) -> list:
    """Casts the arrays to float32 (float64 if the first is) and masks them by `where`.

    `where` covers the leading axes; entries outside become 0. They may hold anything,
    even NaN: they reach neither the loss nor a gradient.
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
    """The loss, with 0 outside `where`."""
    return jnp.asarray(loss) if where is None else jnp.where(where, loss, 0)


def over_labelled(
    log: Float[Array, "*b k"], labels: Float[Array, "*b k"]
) -> Float[Array, "*b k"]:
    """The logarithms, with 0 where one is infinite and its label is 0: 0 log 0 = 0.

    A class whose logit is -inf then adds nothing to the loss or to a gradient.
    """
    return jnp.where(jnp.isinf(log) & (labels == 0), 0, log)


@checked
def mean_where(
    values: Num[Array, "*b"],
    where: Bool[Array, "*b"] | None = None,
    *,
    axis: int | None = None,
) -> jax.Array:
    """Mean of the values in `where`, along one axis or over all; 0 if none is selected.

    This is the batch mean of a loss with padding: sum(values where) / max(count, 1).
    """
    if where is None:
        return jnp.mean(values, axis=axis)
    count = jnp.sum(where, axis=axis, dtype=values.dtype)
    return jnp.sum(masked(values, where), axis=axis) / jnp.maximum(count, 1)

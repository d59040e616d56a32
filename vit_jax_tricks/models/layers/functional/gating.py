"""Products of features with gates, one for all images or one for each."""

from vit_jax_tricks.typing import Array, Float


def spread(
    gate: Float[Array, "..."], ndim: int, *, units: int = 1, after: int = 0
) -> Float[Array, "..."]:
    """Reshapes a gate to `ndim` axes, so that it broadcasts against features.

    The features are [b, ..., *units, *after]. The gate has the axes of `units`, or b
    (or 1) before them; `units` and `after` count axes.
    """
    images = gate.shape[: gate.ndim - units]
    middle = ndim - gate.ndim - after
    own = gate.shape[gate.ndim - units :]
    return gate.reshape(*images, *(1,) * middle, *own, *(1,) * after)


def gated(
    x: Float[Array, "b ..."],
    gate: Float[Array, "..."] | None,
    *,
    units: int = 1,
    after: int = 0,
) -> Float[Array, "b ..."]:
    """x * gate in the dtype of x; without a gate, x itself. Axes as in `spread`."""
    if gate is None:
        return x
    return x * spread(gate, x.ndim, units=units, after=after).astype(x.dtype)

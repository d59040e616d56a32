"""Calibration observers: pure states of the values seen, and their updates."""

from typing import NamedTuple

import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float


Axes = tuple[int, ...] | None


class MinMax(NamedTuple):
    """Minimum and maximum of the values seen; +inf and -inf before the first."""

    low: Float[Array, "*c"]
    high: Float[Array, "*c"]


class Histogram(NamedTuple):
    """Counts of values in equal bins from `low` to `high`."""

    counts: Float[Array, "bins"]
    low: Float[Array, ""]
    high: Float[Array, ""]


class MeanAbs(NamedTuple):
    """Sum of |x| and number of values."""

    total: Float[Array, ""]
    number: Float[Array, ""]


def empty_min_max() -> MinMax:
    """The state before any value."""
    return MinMax(jnp.float32(jnp.inf), jnp.float32(-jnp.inf))


def empty_histogram(bins: int = 2048) -> Histogram:
    """The state before any value, with `bins` bins."""
    return Histogram(jnp.zeros(bins, jnp.float32), *empty_min_max())


def empty_mean_abs() -> MeanAbs:
    """The state before any value."""
    return MeanAbs(jnp.float32(0), jnp.float32(0))


def _check_state(fn: str, state: MinMax, shape: tuple[int, ...]) -> None:
    if state.low.shape not in ((), shape):
        raise UserError(
            f"{fn}: state.low has shape {list(state.low.shape)}; expected [] or "
            f"{list(shape)}, that of x over the same axes."
        )


def _ends(x: Float[Array, "..."], axes: Axes) -> MinMax:
    x = jnp.asarray(x).astype(jnp.float32)
    kept = axes is not None
    return MinMax(x.min(axes, keepdims=kept), x.max(axes, keepdims=kept))


@checked
def min_max(state: MinMax, x: Float[Array, "..."], *, axes: Axes = None) -> MinMax:
    """Smallest and largest value so far, over all axes or over `axes` (kept as 1).

    Equivalent to torch's MinMaxObserver and PerChannelMinMaxObserver (tested).
    """
    now = _ends(x, axes)
    shape = now.low.shape
    _check_state("min_max", state, shape)
    return MinMax(
        jnp.minimum(jnp.broadcast_to(state.low, shape), now.low),
        jnp.maximum(jnp.broadcast_to(state.high, shape), now.high),
    )


@checked
def moving_average(
    state: MinMax,
    x: Float[Array, "..."],
    *,
    constant: float = 0.01,
    axes: Axes = None,
) -> MinMax:
    """Moves each limit towards the batch's, e + c (e_batch - e); the first sets it.

    Raises: UserError for a constant outside (0, 1].
    Equivalent to torch's MovingAverageMinMaxObserver (tested).
    """
    if not 0 < constant <= 1:
        raise UserError(f"constant={constant} must be over 0 and at most 1.")

    def move(old: Array, new: Array) -> Array:
        old = jnp.broadcast_to(old, new.shape)
        seen = jnp.isfinite(old)
        return jnp.where(seen, old + constant * (new - old), new)

    now = _ends(x, axes)
    _check_state("moving_average", state, now.low.shape)
    return MinMax(move(state.low, now.low), move(state.high, now.high))


@checked
def mean_abs(state: MeanAbs, x: Float[Array, "..."]) -> MeanAbs:
    """Accumulates |x|, from which LSQ's initial step is computed."""
    x = jnp.asarray(x).astype(jnp.float32)
    return MeanAbs(state.total + jnp.abs(x).sum(), state.number + x.size)


@checked
def histogram(
    state: Histogram,
    x: Float[Array, "..."],
    *,
    absolute: bool = False,
    upsample: int = 16,
) -> Histogram:
    """Counts x, or |x| from 0 on, in bins over the range of all values so far.

    When the range grows, each old bin is divided into `upsample` equal parts, which are
    assigned to the new bins by their centres.

    Equivalent to torch's HistogramObserver (tested).
    """
    x = jnp.asarray(x).astype(jnp.float32).reshape(-1)
    x = jnp.abs(x) if absolute else x
    bins = state.counts.shape[0]
    low = jnp.minimum(state.low, 0.0 if absolute else x.min())
    high = jnp.maximum(state.high, x.max())
    width = jnp.where(high > low, high - low, 1.0)
    place = jnp.floor((x - low) / width * bins).astype(jnp.int32)
    new = jnp.zeros(bins, jnp.int32).at[jnp.clip(place, 0, bins - 1)].add(1)

    old_low = jnp.where(jnp.isfinite(state.low), state.low, low)
    old_high = jnp.where(jnp.isfinite(state.high), state.high, high)
    parts = bins * upsample
    middles = jnp.linspace(old_low, old_high, parts + 1)[:-1] + 0.5 * (
        (old_high - old_low) / parts
    )
    edges = jnp.linspace(low, high, bins + 1)
    moved = jnp.clip(jnp.searchsorted(edges, middles, side="right") - 1, 0, bins - 1)
    shares = jnp.repeat(state.counts / upsample, upsample)
    old = jnp.zeros(bins, jnp.float32).at[moved].add(shares)
    return Histogram(old + new.astype(jnp.float32), low, high)

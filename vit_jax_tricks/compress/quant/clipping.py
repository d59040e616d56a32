"""Clipping limits chosen from a histogram: percentile, squared error or entropy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.fake_quant import fake_quant
from vit_jax_tricks.compress.quant.grids import Grid
from vit_jax_tricks.compress.quant.observers import Histogram, MinMax
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float


_ALPHA = 1e-5  # fraction of values dropped per step of torch's search


def _edges(state: Histogram) -> Float[Array, "edges"]:
    return jnp.linspace(state.low, state.high, state.counts.shape[0] + 1)


@checked
def percentile_limits(state: Histogram, *, percentile: float = 99.99) -> MinMax:
    """Bin edges below which, and above which, `percentile` per cent of the values lie.

    For a histogram of |x| only the upper edge matters. Equivalent to Model-Optimizer's
    `_compute_amax_percentile` for the upper edge.

    Raises: UserError for a percentile outside (0, 100].
    """
    if not 0 < percentile <= 100:
        raise UserError(f"percentile={percentile} must be over 0 and at most 100.")
    edges = _edges(state)

    def upper(counts: Array, edges: Array) -> Array:
        share = jnp.cumsum(counts / counts.sum())
        index = jnp.searchsorted(share, percentile / 100)
        return edges[jnp.minimum(index, counts.shape[0])]

    high = upper(state.counts, edges)
    return MinMax(upper(state.counts[::-1], edges[::-1]), high)


@checked
def mse_limits(state: Histogram, *, grid: Grid, start_bin: int = 128) -> MinMax:
    """Limits +-amax of least squared error, for a histogram of |x|.

    amax = argmin over bin centres a, from `start_bin` on, of sum_c counts_c (c -
    fake_quant(c; a / high))^2.

    Equivalent to Model-Optimizer's `_compute_amax_mse`.
    """
    edges = _edges(state)
    centres = (edges[1:] + edges[:-1]) / 2

    def error(amax: Array) -> Array:
        rounded = fake_quant(centres, amax / grid.high, grid=grid)
        return (jnp.square(rounded - centres) * state.counts).mean()

    candidates = centres[start_bin:]
    amax = candidates[jnp.argmin(jax.lax.map(error, candidates))]
    return MinMax(-amax, amax)


@checked
def entropy_limits(state: Histogram, *, grid: Grid, start_bin: int = 128) -> MinMax:
    """Limits +-amax of least information loss, for a histogram of |x| (as in TensorRT).

    For each i from `start_bin` on, P is the first i bins, with all counts beyond added
    to the last one. Q is the first i bins merged into grid.high + 1 levels, then spread
    over the bins that were not empty. amax is the upper edge of bin i - 1 for the i
    with the least KL(P || Q), the last one on ties. Bin 0 is given the count of bin 1.

    Equivalent to Model-Optimizer's `_compute_amax_entropy`.
    Source: Migacz, 2017, 8-bit inference with TensorRT (GTC).
    """
    bins = state.counts.shape[0]
    counts = jnp.asarray(state.counts).at[0].set(state.counts[1])
    index = jnp.arange(bins)
    beyond = counts.sum() - jnp.cumsum(counts)
    merged = int(grid.high) + 1

    def divergence(i: Array) -> Array:
        inside = index < i
        p = jnp.where(inside, counts, 0)
        filled = (p > 0).astype(jnp.float32)
        level = jnp.where(inside, index * merged // i, merged)
        total = jnp.zeros(merged + 1, jnp.float32).at[level].add(p)
        holders = jnp.zeros(merged + 1, jnp.float32).at[level].add(filled)
        q = (total / jnp.maximum(holders, 1))[level] * filled
        p = p.at[i - 1].add(beyond[i - 1])
        p, q = p / p.sum(), q / q.sum()
        terms = p * (jnp.log(p) - jnp.log(q))
        return jnp.where(p > 0, terms, 0).sum()

    steps = jnp.arange(start_bin, bins + 1)
    losses = jax.lax.map(divergence, steps)
    losses = jnp.where(jnp.isnan(losses), jnp.inf, losses)
    last = losses.shape[0] - 1 - jnp.argmin(losses[::-1])
    amax = _edges(state)[steps[last]]
    return MinMax(-amax, amax)


@checked
def sweep_limits(
    x: Float[Array, "..."],
    round_within: Callable[[Array, Array], Array],
    *,
    axes: tuple[int, ...],
) -> MinMax:
    """Minimum and maximum of x over `axes`, scaled for the least squared error.

    The factor is one of 1, 0.99, ..., 0.11, chosen for each channel to minimise the sum
    over `axes` of (x - round_within(low, high))^2; `round_within` fake-quantises x in
    that range.

    Equivalent to FQ-ViT's `OmseObserver` (Lin et al., 2021, arXiv:2111.13824) with its
    factors, searched separately for each channel.
    """
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)

    def attempt(best, factor):
        least, chosen = best
        rounded = round_within(low * factor, high * factor)
        error = jnp.square(rounded - x).sum(axes, keepdims=True)
        chosen = jnp.where(error < least, factor, chosen)
        return (jnp.minimum(error, least), chosen), None

    factors = (100 - jnp.arange(90, dtype=x.dtype)) / 100
    start = (jnp.full_like(low, jnp.inf), jnp.ones_like(low))
    (_, chosen), _ = jax.lax.scan(attempt, start, factors)
    return MinMax(low * chosen, high * chosen)


@checked
def l2_limits(state: Histogram, *, grid: Grid) -> MinMax:
    """Both limits of least squared error, narrowed from the outside in.

    Each step drops 1e-5 of the values on the side with the emptier bins, until the
    error of rounding a uniform density in each bin to the grid's levels would grow.

    Equivalent to torch's HistogramObserver (tested).
    """
    bins = state.counts.shape[0]
    width = (state.high - state.low) / bins
    seen = jnp.cumsum(state.counts)
    total = state.counts.sum()
    number = int(grid.high - grid.low) + 1

    def error(start: Array, end: Array) -> Array:
        return _rounding_error(state.counts, width, start, end, number)

    def step(carry):
        start, end, alpha, beta, least, _ = carry
        low = total * (_ALPHA * (alpha + 1).astype(jnp.float32))
        high = total * (1 - _ALPHA * (beta + 1).astype(jnp.float32))
        left = jnp.clip(jnp.searchsorted(seen, low), start, end)
        right = jnp.clip(jnp.searchsorted(seen, high, side="right") - 1, start, end)
        moves_start = left - start > end - right
        new_start = jnp.where(moves_start, left, start)
        new_end = jnp.where(moves_start, end, right)
        alpha = alpha + moves_start.astype(alpha.dtype)
        beta = beta + (~moves_start).astype(beta.dtype)
        still = (new_start == start) & (new_end == end)
        now = jax.lax.cond(still, lambda *_: least, error, new_start, new_end)
        worse = now > least
        start = jnp.where(worse, start, new_start)
        end = jnp.where(worse, end, new_end)
        return start, end, alpha, beta, jnp.where(worse, least, now), worse

    def going(carry):
        _, _, alpha, beta, _, worse = carry
        return ~worse & (alpha + beta < round(1 / _ALPHA))

    zero = jnp.int32(0)
    ends = (zero, jnp.int32(bins - 1))
    first = (*ends, zero, zero, jnp.float32(jnp.inf), jnp.bool_(False))
    start, end, *_ = jax.lax.while_loop(going, step, first)
    low = state.low + width * start.astype(jnp.float32)
    high = state.low + width * (end + 1).astype(jnp.float32)
    return MinMax(low, high)


def _rounding_error(
    counts: Array, width: Array, start: Array, end: Array, number: int
) -> Array:
    """Rounding error of counts that are spread evenly over each bin.

    The integral of the squared distance to the nearest of `number` levels over the bins
    start..end.
    """
    level = width * (end - start + 1).astype(jnp.float32) / number
    safe = jnp.where(level > 0, level, 1.0)
    left = (jnp.arange(counts.shape[0]) - start).astype(jnp.float32) * width
    right = left + width
    first = jnp.clip(jnp.floor(left / safe), 0, number - 1)
    last = jnp.clip(jnp.floor(right / safe), 0, number - 1)
    density = counts / jnp.where(width > 0, width, 1.0)
    half = safe / 2

    def cubes(begin: Array, finish: Array) -> Array:
        return density * (finish**3 - begin**3) / 3

    total = cubes(left - (first + 0.5) * safe, half)
    total = total + (last - first - 1) * cubes(-half, half)
    total = total + cubes(-half, right - (last * safe + half))
    return jnp.where(level > 0, total.sum(), 0.0)

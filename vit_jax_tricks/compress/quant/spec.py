"""Quantisation of one place: grid, granularity and the observer of its range."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.compress.quant import clipping, observers
from vit_jax_tricks.compress.quant.fake_quant import (
    fake_quant,
    learned_fake_quant,
    learned_step,
)
from vit_jax_tricks.compress.quant.grids import Grid, grid
from vit_jax_tricks.compress.quant.observers import MinMax
from vit_jax_tricks.compress.quant.ranges import Range, affine_range, symmetric_range
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float


OBSERVERS = (
    "min_max",
    "moving_average",
    "percentile",
    "mse",
    "entropy",
    "mean_abs",
    "fixed",
)
_SYMMETRIC_ONLY = ("mean_abs",)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Quantisation of one weight or activation.

    `grid` is a name known to `compress.grid`. `symmetric` omits the zero point;
    `per_channel` (weights) uses one step for each output channel. `observer` determines
    the range: "min_max", "moving_average" (with `constant`), "percentile" (with
    `percentile`), "mse" (least squared error), "entropy" (least KL divergence),
    "mean_abs" (LSQ's initial step) or "fixed" (the range `fixed`, such as (0, 1) for
    probabilities). `power_of_two` rounds the step up to a power of two, `half_range` is
    as in `symmetric_range`, and `learned` lets gradients reach the step (LSQ).

    Raises: UserError for unknown names, and for choices that exclude one another.
    """

    grid: str = "int8"
    symmetric: bool = True
    per_channel: bool = False
    observer: str = "min_max"
    percentile: float = 99.99
    constant: float = 0.01
    fixed: tuple[float, float] | None = None
    power_of_two: bool = False
    half_range: bool = False
    learned: bool = False

    def __post_init__(self) -> None:
        if self.observer not in OBSERVERS:
            hint = nearest(self.observer, OBSERVERS)
            raise UserError(f'observer "{self.observer}" is unknown.{hint}')
        float8 = self.values.float8  # the grid must exist
        if float8 and not self.symmetric:
            raise UserError(f"{self.grid} has no zero point: set symmetric=True.")
        if not self.symmetric and self.observer in _SYMMETRIC_ONLY:
            raise UserError(f'observer "{self.observer}" needs symmetric=True.')
        if (self.observer == "fixed") != (self.fixed is not None):
            raise UserError(
                f'fixed={self.fixed} with observer "{self.observer}": a fixed range '
                'needs both, Spec(observer="fixed", fixed=(0.0, 1.0)).'
            )
        if self.fixed is not None and not self.fixed[0] < self.fixed[1]:
            raise UserError(f"fixed={self.fixed} must be (low, high), low < high.")
        if self.half_range and not self.symmetric:
            raise UserError("half_range needs a symmetric range: set symmetric=True.")

    @property
    def values(self) -> Grid:
        """The grid object."""
        return grid(self.grid)

    def range(self, low: Float[Array, "..."], high: Float[Array, "..."]) -> Range:
        """Step and zero point for values in [low, high]."""
        given: dict[str, Any] = dict(grid=self.values, power_of_two=self.power_of_two)
        if self.symmetric:
            found = symmetric_range(low, high, half_range=self.half_range, **given)
        else:
            found = affine_range(low, high, **given)
        if self.learned and found.zero_point is not None:
            return found._replace(zero_point=found.zero_point.astype(jnp.float32))
        return found

    def apply(self, x: Float[Array, "..."], found: Range) -> Float[Array, "..."]:
        """Fake-quantises x."""
        rounded = learned_fake_quant if self.learned else fake_quant
        return rounded(x, found.scale, found.zero_point, grid=self.values)


def empty(spec: Spec) -> Any:
    """State of an activation observer before the first batch."""
    if spec.observer == "fixed":
        return ()
    if spec.observer in ("min_max", "moving_average"):
        return observers.empty_min_max()
    if spec.observer == "mean_abs":
        return observers.empty_mean_abs()
    return observers.empty_histogram(), observers.empty_min_max()


def update(spec: Spec, state: Any, x: Float[Array, "..."]) -> Any:
    """State after one more batch of activations."""
    if spec.observer == "fixed":
        return state
    if spec.observer == "min_max":
        return observers.min_max(state, x)
    if spec.observer == "moving_average":
        return observers.moving_average(state, x, constant=spec.constant)
    if spec.observer == "mean_abs":
        return observers.mean_abs(state, x)
    counts, ends = state
    absolute = spec.symmetric or spec.observer == "entropy"
    counts = observers.histogram(counts, x, absolute=absolute)
    return counts, observers.min_max(ends, x)


def limits(spec: Spec, state: Any) -> MinMax:
    """The range that the observer chooses.

    Entropy clips at +-amax; an affine range ends at the extreme values if they lie
    inside.
    """
    if spec.fixed is not None:
        low, high = spec.fixed
        return MinMax(jnp.float32(low), jnp.float32(high))
    if spec.observer in ("min_max", "moving_average"):
        return state
    if spec.observer == "mean_abs":
        amax = 2 * state.total / state.number * spec.values.high**0.5
        return MinMax(-amax, amax)
    counts, ends = state
    if spec.observer == "percentile":
        found = clipping.percentile_limits(counts, percentile=spec.percentile)
        return found._replace(low=-found.high) if spec.symmetric else found
    if spec.observer == "mse":
        search = clipping.mse_limits if spec.symmetric else clipping.l2_limits
        return search(counts, grid=spec.values)
    low, high = clipping.entropy_limits(counts, grid=spec.values)
    if spec.symmetric:
        return MinMax(low, high)
    return MinMax(jnp.maximum(low, ends.low), jnp.minimum(high, ends.high))


def weight_range(
    spec: Spec, weight: Float[Array, "..."], axes: tuple[int, ...]
) -> Range:
    """Steps of a weight whose values along `axes` share one.

    "mse" sweeps the range of each channel (`clipping.sweep_limits`).

    Raises: UserError for an observer of activations.
    """
    w = jnp.asarray(weight).astype(jnp.float32)
    if spec.fixed is not None:
        one = jnp.zeros_like(w.min(axes, keepdims=True))
        return spec.range(one + spec.fixed[0], one + spec.fixed[1])
    if spec.observer == "min_max":
        return spec.range(*observers.min_max(observers.empty_min_max(), w, axes=axes))
    if spec.observer == "mse":

        def round_within(low: Array, high: Array) -> Array:
            return fake_quant(w, *spec.range(low, high), grid=spec.values)

        return spec.range(*clipping.sweep_limits(w, round_within, axes=axes))
    if spec.observer == "mean_abs":
        amax = learned_step(w, grid=spec.values, axes=axes) * spec.values.high
        return spec.range(-amax, amax)
    raise UserError(
        f'observer "{spec.observer}" is for activations: weights take "min_max", "mse",'
        ' "mean_abs" or "fixed".'
    )

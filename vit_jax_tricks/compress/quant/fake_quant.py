"""Fake quantisation: rounds values to a grid, with straight-through gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.grids import Grid
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float, Int


def operands(
    fn: str,
    x: Float[Array, "..."],
    scale: Float[Array, "..."] | float,
    zero_point: Float[Array, "..."] | Int[Array, "..."] | int | float | None,
    grid: Grid,
) -> tuple[Array, Array, Array]:
    """Converts all three to one float dtype and to broadcastable shapes.

    `fn` is the caller's name, for messages.

    Raises: UserError for a scale or zero point that does not fit the axes of x, or a
      zero point with an 8-bit float grid.
    """
    if grid.float8 and zero_point is not None:
        raise UserError(f"{fn}: {grid.float8} has no zero point: leave zero_point out.")
    dtype = at_least_float32(x.dtype)
    wide = jnp.asarray(x).astype(dtype)
    steps = []
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        value = jnp.asarray(0 if value is None else value).astype(dtype)
        check_fits(fn, name, value, wide.shape)
        steps.append(value.reshape(value.shape or (1,) * wide.ndim))
    return wide, *steps


def check_fits(fn: str, name: str, value: Array, shape: tuple[Any, ...]) -> None:
    """Raises UserError unless `value` is a single number or broadcasts over `shape`."""
    pairs = zip(value.shape, shape, strict=False)
    if value.ndim not in (0, len(shape)) or any(s not in (1, n) for s, n in pairs):
        raise UserError(
            f"{fn}: {name} of shape {value.shape} does not fit an array of shape "
            f"{shape}: give one number, or one for each channel with size 1 elsewhere."
        )


@checked
def fake_quant(
    x: Float[Array, "..."],
    scale: Float[Array, "..."] | float,
    zero_point: Int[Array, "..."] | int | None = None,
    *,
    grid: Grid,
) -> Float[Array, "..."]:
    """Rounds to the grid and back: s (clip(round(x / s) + z, low, high) - z).

    Ties round to even. x / s is computed as x times the float32 number 1 / s, so that
    compiled and op-by-op programs agree. The gradient with respect to x is the upstream
    gradient where the rounded value lies in the grid, ends included, and 0 where it was
    clipped; the scale gets none. `scale` and `zero_point` are scalars, or have one
    value for each channel and size 1 along the other axes. The result has x's dtype;
    arithmetic is in float32.

    Raises: UserError for shapes that do not fit.
    Equivalent to torch's fake_quantize_per_tensor_affine and
    fake_quantize_per_channel_affine, bit for bit (tested).
    Source: Jacob et al., 2017, arXiv:1712.05877.
    """
    wide, scale, zero_point = operands("fake_quant", x, scale, zero_point, grid)
    scale, zero_point = jax.lax.stop_gradient((scale, zero_point))
    return _fake_quant(wide, scale, zero_point, grid, 1.0).astype(x.dtype)


@checked
def learned_fake_quant(
    x: Float[Array, "..."],
    scale: Float[Array, "..."] | float,
    zero_point: Float[Array, "..."] | float | None = None,
    *,
    grid: Grid,
    grad_factor: float | None = None,
) -> Float[Array, "..."]:
    """`fake_quant` with gradients for the scale and the zero point (LSQ).

    d y / d s = round(x / s) - x / s inside the grid, low - z below and high - z above;
    d y / d z = 0 inside and -s outside. Both are summed over the values that share a
    step and multiplied by `grad_factor`, by default 1 / sqrt(values * high). The zero
    point is rounded and clipped to the grid. A step that an update made negative counts
    as the smallest positive number.

    Raises: UserError for shapes that do not fit.
    Equivalent to torch's _fake_quantize_learnable_per_tensor_affine and
    _per_channel_affine (tested).
    Sources: Esser et al., 2019 (LSQ), arXiv:1902.08153; zero points: Bhalgat et al.,
    2020 (LSQ+), arXiv:2004.09576.
    """
    wide, step, zero_point = operands("learned_fake_quant", x, scale, zero_point, grid)
    if grad_factor is None:
        grad_factor = (max(wide.size // max(step.size, 1), 1) * grid.high) ** -0.5
    return _fake_quant(wide, step, zero_point, grid, grad_factor).astype(x.dtype)


@checked
def learned_step(
    x: Float[Array, "..."], *, grid: Grid, axes: tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Initial step of LSQ, 2 mean|x| / sqrt(high), over `axes` (kept with size 1).

    Source: Esser et al., 2019, arXiv:1902.08153.
    """
    wide = jnp.asarray(x).astype(at_least_float32(x.dtype))
    mean = jnp.abs(wide).mean(axes, keepdims=axes is not None)
    return 2 * mean / grid.high**0.5


def levels(x: Array, scale: Array, zero_point: Array, grid: Grid) -> Array:
    """round(x / s) + z, before clipping."""
    return grid.round(x * (1 / scale)) + zero_point


def _positive(scale: Array) -> Array:
    return jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)


def _value(
    x: Array, scale: Array, zero_point: Array, grid: Grid, grad_factor: float
) -> Array:
    scale = _positive(scale)
    zero_point = jnp.clip(jnp.round(zero_point), grid.low, grid.high)
    level = levels(x, scale, zero_point, grid)
    return (jnp.clip(level, grid.low, grid.high) - zero_point) * scale


def _forward(x, scale, zero_point, grid, grad_factor):
    y = _value(x, scale, zero_point, grid, grad_factor)
    return y, (x, scale, zero_point)


def _backward(grid, grad_factor, saved, upstream):
    x, scale, zero_point = saved
    scale = _positive(scale)
    zero_point = jnp.clip(jnp.round(zero_point), grid.low, grid.high)
    level = levels(x, scale, zero_point, grid)
    below, above = level < grid.low, level > grid.high
    clipped = below | above
    rounding = level - zero_point - x / scale
    d_scale = jnp.where(above, grid.high - zero_point, rounding)
    d_scale = jnp.where(below, grid.low - zero_point, d_scale)
    shared = tuple(i for i, size in enumerate(scale.shape) if size == 1)
    same = tuple(i for i, size in enumerate(zero_point.shape) if size == 1)
    return (
        jnp.where(clipped, 0, upstream),
        grad_factor * (upstream * d_scale).sum(shared, keepdims=True),
        grad_factor * jnp.where(clipped, -scale * upstream, 0).sum(same, keepdims=True),
    )


_fake_quant = jax.custom_vjp(_value, nondiff_argnums=(3, 4))
_fake_quant.defvjp(_forward, _backward)

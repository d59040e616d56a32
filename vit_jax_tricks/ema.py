"""Exponential moving average of parameters and statistics, in float32 or better."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked, same_trees
from vit_jax_tricks.typing import Array, Float, Integer


def _rate(
    step: int | Integer[Array, ""], decay: float, warmup: bool, start: int | None
) -> float | Float[Array, ""]:
    """1 - decay at an update, computed without the cancellation in 1 - 0.99996."""
    if not warmup and start is None:
        return 1.0 - decay
    age = jnp.maximum(jnp.asarray(step) - (start or 0) - 1, 0)
    age = age.astype(jnp.result_type(float))
    if warmup:
        return jnp.maximum((1.0 + age) ** (-2.0 / 3.0), 1.0 - decay)
    return jnp.where(age > 0, 1.0 - decay, 1.0)


@checked
def ema_decay(
    step: int | Integer[Array, ""],
    *,
    decay: float,
    warmup: bool = False,
    start: int | None = None,
) -> Float[Array, ""]:
    """Decay used at update number `step` (from 0).

    Constant `decay` or, with `warmup`,

        min(decay, 1 - (1 + t)^(-2/3)),  t = step - start - 1,

    so that short runs are not dominated by the initial values. With `start`, the decay
    is 0 (a plain copy) up to step start + 1.

    Equivalent to timm's ModelEmaV2 (both off) and ModelEmaV3 (tested).
    """
    return jnp.asarray(1.0 - _rate(step, decay, warmup, start))


def ema_init(params: Any) -> Any:
    """Initial average: a copy, in float32 for leaves of half precision or less.

    In half precision, an update by 1 - decay is less than half of the last digit and
    would change nothing. Leaves that are not floating point are copied.
    """
    return jax.tree.map(lambda x: jnp.array(x, _wide(x), copy=True), params)


def _wide(x: Array) -> Any:
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return jnp.float32 if narrow else x.dtype


@checked
def ema_update(
    ema: Any,
    params: Any,
    *,
    decay: float,
    step: int | Integer[Array, ""] = 0,
    warmup: bool = False,
    start: int | None = None,
) -> Any:
    """One update: ema + (1 - decay) (params - ema), leaf by leaf.

    Works on any tree (pass parameters and batch statistics together); leaves that are
    not floating point are copied. The average is float32, or float64 if it already was:
    start with `ema_init`, so that its dtype never changes.

    Raises: UserError for trees of different leaves or shapes.
    """
    same_trees("ema_update", ema=ema, params=params)
    rate = _rate(step, decay, warmup, start)

    def move(old: Array, new: Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return jnp.asarray(new)
        dtype = _wide(old)
        old, new = jnp.asarray(old, dtype), jnp.asarray(new, dtype)
        return old + jnp.asarray(rate, old.dtype) * (new - old)

    return jax.tree.map(move, ema, params)

"""Learning-rate schedules: pure `schedule(step)` functions that run inside jit.

The three published cosine conventions differ by a few per cent, so each has a name.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float, Int


Schedule = Callable[[Any], Float[Array, "..."]]
Steps = float | int  # steps per epoch

# Shape of the decay, and whether it starts after the warm-up.
_NAMES = {
    "cosine_timm": ("cosine", False),
    "cosine_prefix": ("cosine", True),
    "cosine_optax": ("cosine", True),
    "linear": ("linear", True),
    "constant": ("constant", True),
}


def _check(name: str, total: int, warmup: int, per_epoch: bool, spe: Steps, lag: int):
    if name not in _NAMES:
        raise UserError(f'schedule name "{name}" is unknown.{nearest(name, _NAMES)}')
    if warmup < 0 or total <= warmup:
        raise UserError(
            f"the schedule has {total} steps before cool-down and {warmup} of warm-up; "
            "warm-up must be shorter: train longer or lower warm-up or cool-down."
        )
    if per_epoch and spe < 1:
        raise UserError(f"per_epoch needs steps_per_epoch of at least 1, got {spe}.")
    if lag and not per_epoch:
        raise UserError(f"lag_epochs={lag} needs per_epoch=True.")


def _first_steps(total: int, spe: Steps, lag: int) -> Int[np.ndarray, "e"]:
    """The first step of each epoch, up to `lag` epochs after the end."""
    epochs = np.arange(math.ceil(total / spe) + lag + 1)
    return np.ceil(epochs * spe - 1e-6).astype(np.int32)


def make(
    name: str,
    *,
    lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_lr: float = 0.0,
    min_lr: float = 0.0,
    steps_per_epoch: Steps = 0,
    per_epoch: bool = False,
    lag_epochs: int = 0,
    cooldown_steps: int = 0,
) -> Schedule:
    """Linear warm-up, then decay from `lr` to `min_lr`, then constant `min_lr`.

    With w warm-up steps and T = total_steps - cooldown_steps:

    lr(t) = warmup_lr + (lr - warmup_lr) t / w for t < w, otherwise
    lr(t) = min_lr + (lr - min_lr) (1 + cos(pi u)) / 2 with

    * `cosine_timm`: u = t / T, not shifted, so the rate drops slightly at t = w (timm's
    default; DeiT, LV-ViT, T2T-ViT, ConViT);
    * `cosine_prefix`: u = (t - w) / (T - w) (Swin's `WARMUP_PREFIX`);
    * `cosine_optax`: the same curve, named after optax's
    `warmup_cosine_decay_schedule`, whose `decay_steps` is T;
    * `linear`: (1 + cos(pi u)) / 2 becomes 1 - u; `constant`: it becomes 1.

    `per_epoch` holds the value for an epoch (timm steps once per epoch), and
    `lag_epochs=1` runs each epoch at the rate of the previous one, as DeiT's loop does.
    Epoch e begins with the first step t >= e * steps_per_epoch, which need not be an
    integer, and has the rate of that number.

    The cosine is computed as sin^2 of the remaining time, which keeps float32 accurate
    to the last step. Steps count from 0 and are exact up to 2^31.

    Raises: UserError for an unknown name or lengths that do not fit.
    Equivalent to timm's CosineLRScheduler and optax's schedule (tested).
    """
    end = total_steps - cooldown_steps
    _check(name, end, warmup_steps, per_epoch, steps_per_epoch, lag_epochs)
    shape, shifted = _NAMES[name]
    start = warmup_steps if shifted else 0
    first = (
        _first_steps(total_steps, steps_per_epoch, lag_epochs) if per_epoch else None
    )

    def schedule(step: int | Int[Array, "..."]) -> Float[Array, "..."]:
        t, dtype = jnp.asarray(step), jnp.result_type(float)
        if first is not None:
            begins = jnp.asarray(first, t.dtype)
            epoch = jnp.searchsorted(begins, t, side="right") - 1
            epoch = jnp.maximum(epoch - lag_epochs, 0)
            t = jnp.asarray(np.arange(len(first)) * steps_per_epoch, dtype)[epoch]
        rising = t.astype(dtype) / max(warmup_steps, 1)
        left = jnp.clip(end - t, 0, end - start).astype(dtype) / (end - start)
        if shape == "cosine":
            left = jnp.square(jnp.sin(left * (jnp.pi / 2)))
        elif shape == "constant":
            left = jnp.ones_like(left)
        return jnp.where(
            t < warmup_steps,
            warmup_lr + (lr - warmup_lr) * rising,
            min_lr + (lr - min_lr) * left,
        )

    return schedule

"""Augmentation policies: how they are defined, drawn from and applied."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.augment.levels import Draw, Family
from vit_jax_tricks.augment.operations import apply_operations, code
from vit_jax_tricks.augment.pixels import from_uint8, to_uint8
from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import (
    Array,
    Float,
    Int,
    Integer,
    Key,
    Num,
    Pixels,
    PRNGKeyArray,
)


IMAGENET_MEAN = (124, 116, 104)  # grey levels
Fill = float | int | Sequence[float | int]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "random")


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation of a family, the probability of applying it, and its level."""

    name: str
    prob: float
    level: float


@dataclasses.dataclass(frozen=True)
class Policy:
    """A distribution over operations.

    Attributes:
      family: the meaning of names and levels.
      rows: sub-policies, all of the same length; the steps of one are applied in order.
      rounds: number of rows drawn for each image.
      weights: weights of the rows, which are then drawn without replacement; None draws
        uniformly, with replacement.
      std: standard deviation of the level; infinite means uniform from 0 to the level.
      highest: levels are clipped to 0..highest.
      bins: if given, levels are instead drawn uniformly from 0..bins - 1.
    """

    family: Family
    rows: tuple[tuple[Step, ...], ...]
    rounds: int = 1
    weights: tuple[float, ...] | None = None
    std: float = 0.0
    highest: float = 10.0
    bins: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the family that this policy uses."""
        return tuple(sorted({step.name for row in self.rows for step in row}))

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that this policy uses."""
        return tuple(sorted({self.family[name][0] for name in self.names}))

    @property
    def slots(self) -> int:
        """Number of operations applied to each image."""
        return self.rounds * len(self.rows[0])


def _rows(policy: Policy, key: PRNGKeyArray) -> Int[Array, "r"]:
    if policy.weights is None:
        return jax.random.randint(key, (policy.rounds,), 0, len(policy.rows))
    # Top-k of log weights plus Gumbel noise: sampling without replacement.
    noise = jax.random.gumbel(key, (len(policy.rows),))
    scores = noise + jnp.log(jnp.asarray(policy.weights, noise.dtype))
    return jax.lax.top_k(scores, policy.rounds)[1].astype(jnp.int32)


@checked
def draw(
    policy: Policy, keys: Key[Array, "b"], size: tuple[int, int]
) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """Draws the operation (see OPERATIONS) and the amount for every slot.

    Args:
      policy: the distribution.
      keys: one key for each image, [b].
      size: (h, w) of the images.
    """
    shape = (policy.rounds, len(policy.rows[0]))

    def one(key: Any) -> tuple[Array, Array, Array]:
        row_key, step_key, noise_key = jax.random.split(key, 3)
        uniform = jax.random.uniform(step_key, (4, *shape), jnp.float32)
        noise = jax.random.normal(noise_key, shape, jnp.float32)
        return _rows(policy, row_key), uniform, noise

    row, uniform, noise = jax.vmap(one)(keys)
    applied, negative, place, other = (
        part.reshape(-1) for part in jnp.moveaxis(uniform, 1, 0)
    )

    # A draw gives a step with a fixed level, or a name and a random level.
    fixed = policy.bins is None and not policy.std
    kinds = sorted(
        {(s.name, s.level if fixed else 0.0) for r in policy.rows for s in r}
    )

    def column(of: Callable[[Step], float], dtype: Any) -> Array:
        table = np.array([[of(step) for step in steps] for steps in policy.rows], dtype)
        return jnp.asarray(table)[row].reshape(-1)

    level = column(lambda step: step.level, np.float32)
    if policy.bins is not None:
        level = jnp.floor(place * policy.bins)
    elif math.isinf(policy.std):
        level = place * level
    else:
        level = level + policy.std * noise.reshape(-1)
    level = jnp.clip(level, 0, policy.highest)

    def amount_of(name: str, number: float) -> Array:
        at = np.float64(min(max(number, 0), policy.highest)) if fixed else level
        minus, plus = (
            jnp.asarray(
                policy.family[name][1](Draw(at, sign, other, size)), jnp.float32
            )
            for sign in (-1.0, 1.0)
        )
        return jnp.broadcast_to(jnp.where(negative < 0.5, minus, plus), level.shape)

    kind = column(
        lambda step: kinds.index((step.name, step.level if fixed else 0.0)), np.int32
    )
    amounts = jnp.stack([amount_of(*k) for k in kinds])
    amount = jnp.take_along_axis(amounts, kind[None], axis=0)
    codes = [code(policy.family[name][0]) for name, _ in kinds]
    op = jnp.asarray(codes, jnp.int32)[kind]
    op = jnp.where(applied < column(lambda step: step.prob, np.float32), op, 0)
    return op.reshape(-1, policy.slots), amount.reshape(-1, policy.slots)


@checked
def apply_policy(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    policy: Policy,
    *,
    fill: Fill = IMAGENET_MEAN,
    interpolation: str = "bicubic",
) -> Num[Array, "b h w c"]:
    """Draws from the policy and applies it; a draw depends only on (key, index).

    Args:
      key, images, index: as in every augmentation; floats in [0, 1] are rounded to 256
        levels.
      policy: the distribution.
      fill: grey levels outside a warped image; for grey images, the mean of the three.
      interpolation: for warps: nearest, bilinear, bicubic, or random, which picks
        bilinear or bicubic for each operation.
    """
    size = images.shape[1], images.shape[2]
    drawn = draw_each(policy, key, index, size, interpolation=interpolation)
    return apply_drawn(drawn, images, policy, fill=fill)


class Drawn(NamedTuple):
    """The operations, amounts and interpolations of n slots."""

    op: Int[Array, "b n"]
    amount: Float[Array, "b n"]
    interpolation: str | Int[Array, "b n"]


def draw_each(
    policy: Policy,
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    size: tuple[int, int],
    *,
    interpolation: str,
) -> Drawn:
    """The draws of `apply_policy` for images of `size` (h, w)."""
    keys = example_keys(key, index)
    op, amount = draw(policy, keys, size)
    return Drawn(op, amount, pick_interpolation(interpolation, keys, policy.slots))


def apply_drawn(
    drawn: Drawn, images: Num[Array, "b h w c"], policy: Policy, *, fill: Fill
) -> Num[Array, "b h w c"]:
    """The images of `apply_policy` for given draws."""
    levels = apply_operations(
        to_uint8(images),
        drawn.op,
        drawn.amount,
        among=policy.operations,
        fill=fill_for(images.shape[-1], fill),
        interpolation=drawn.interpolation,
    )
    return from_uint8(levels, images)


def fill_for(channels: int, fill: Fill) -> float | tuple[float, ...]:
    """The fill as floats; grey images get the rounded mean of an RGB fill."""
    if not isinstance(fill, Sequence):
        return float(fill)
    if channels == 1:
        return float(round(sum(fill) / len(fill)))
    return tuple(map(float, fill))


def pick_interpolation(
    interpolation: str, keys: Array, slots: int
) -> str | Int[Array, "b n"]:
    """The name itself or, for "random", an index into affine_warp's list per slot."""
    if interpolation != "random":
        return interpolation
    pick = jax.vmap(
        lambda key: jax.random.randint(jax.random.fold_in(key, 0), (slots,), 1, 3)
    )
    return pick(keys).astype(jnp.int32)

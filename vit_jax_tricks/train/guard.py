"""Takes an update only where every new number is finite, at the cost of reading it."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Bool


Tree = TypeVar("Tree")


def guarded(
    finite: Bool[Array, ""],
    update: Callable[[], Tree],
    old: Tree,
    *,
    like: Any,
    costly: bool = False,
) -> tuple[Bool[Array, ""], Tree]:
    """`update()`, or `old` where `finite` is False or a new number is not finite.

    `update` runs twice: first for the check alone, whose values XLA fuses into the
    reductions and never stores, then into the buffers of `old`. That moves a third of
    the bytes of storing the new values, checking and selecting them.

    Args:
      finite: False if loss or gradients were not finite; the update is not tried then.
      update: makes the new values, in the structure of `old`.
      old: the values to keep otherwise.
      like: the parameters; see `all_finite`.
      costly: whether `update` is more than a few operations per number, as Muon's
        matrix products are. It then runs once, and its values are stored and selected.

    Returns:
      Whether the update was taken, and the values.
    """
    if costly:

        def selected() -> tuple[Array, Tree]:
            new = update()
            sound = all_finite(new, like=like)
            return sound, jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)

        return jax.lax.cond(finite, selected, lambda: (finite, old))
    # Two branches: XLA does not merge them and updates the donated buffers in place.
    sound = jax.lax.cond(
        finite, lambda: all_finite(update(), like=like), lambda: finite
    )
    return sound, jax.lax.cond(sound, update, lambda: old)


def all_finite(tree: Any, *, like: Any) -> Bool[Array, ""]:
    """Whether every float in `tree` is finite.

    Leaves that belong to one parameter (its new value, its average, its moments) are
    reduced together, so that what they are computed from is read once.

    Args:
      tree: parameters, averages and states of optimizers, whose paths end in the
        parameter's path.
      like: the parameters.
    """
    names = {path for path, _ in jax.tree.leaves_with_path(like)}
    groups: dict[Any, list[Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            ends = (path[i:] for i in range(len(path)))
            name = next((end for end in ends if end in names), path)
            groups.setdefault((name, leaf.shape), []).append(jnp.isfinite(leaf))
    every = [functools.reduce(jnp.logical_and, group) for group in groups.values()]
    return functools.reduce(jnp.logical_and, [x.all() for x in every], jnp.array(True))

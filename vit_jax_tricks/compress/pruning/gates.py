"""Runs a model with a gate on every head and hidden unit, without changing its code."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.pruning.checks import check_gates, check_groups, check_plan
from vit_jax_tricks.compress.pruning.groups import Group, Plan, unrolled
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import by_path
from vit_jax_tricks.typing import Array, Float


@checked
def gated_apply(
    model: Any,
    variables: Any,
    images: Float[Array, "b h w c"],
    groups: Mapping[str, Group],
    gates: Mapping[str, Float[Array, "#b s"]],
    *,
    train: bool = False,
    **options: Any,
) -> tuple[Any, dict[str, Array]]:
    """`model.apply` with the outputs of heads and hidden units multiplied by gates.

    `gates` are given by group, for all images or for each; groups without gates pass
    unchanged. Blocks are not stacked: `model` and `variables` are unrolled. `options`
    are those of `model.apply` (rngs, mutable).

    Returns:
      The model's result, and its intermediates by path: the outputs before their gates
        as `blocks_0/attn/proj` [b, ..., g, h] and `blocks_0/mlp/fc2` [b, ..., s], and
        the attention probabilities as `blocks_0/attn` [b, ..., g, n, n].

    Raises: UserError for images of another shape or dtype, stacked blocks, groups of
      another model, gates of unknown groups, and gates of another length.
    """
    check_groups("gated_apply", groups, by_path(variables["params"]))
    check_gates("gated_apply", groups, gates)
    if getattr(model, "scan", False):
        raise UserError(
            "gated_apply: the model has scan=True; make it with scan=False."
        )
    by_place = {group.place: group for group in groups.values()}
    heads = [group.layer for group in groups.values() if group.kind == "heads"]
    weights = {f"{layer}/Dropout_0": layer for layer in heads}
    seen: dict[str, Array] = {}

    def gate(next_fun, args, kwargs, context):
        path = "/".join(context.module.path)
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        if path in weights:
            seen[weights[path]] = args[0]
        if path in by_place:
            group, x = by_place[path], args[0]
            seen[path] = x
            if group.name in gates:
                value = gates[group.name].astype(x.dtype)
                end = 1 if group.kind == "heads" else 0
                middle = (1,) * (x.ndim - 2 - end)
                shape = (value.shape[0], *middle, group.size, *(1,) * end)
                args = (x * value.reshape(shape), *args[1:])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(gate):
        return model.apply(variables, images, train=train, **options), seen


@checked
def masked_apply(
    model: Any,
    variables: Any,
    images: Float[Array, "b h w c"],
    groups: Mapping[str, Group],
    plan: Plan,
) -> tuple[Float[Array, "b k"], dict[str, Array]]:
    """`model.apply` without the parts that the plan removes, at the model's full size.

    Equal to the model that `shrink` makes (tested for every family).

    Raises: UserError for images of another shape or dtype, groups of another model, and
    a plan that does not fit them.
    """
    check_plan("masked_apply", groups, plan)
    gates = {
        name: jnp.zeros((1, groups[name].size)).at[:, jnp.asarray(kept, int)].set(1)
        for name, kept in plan.items()
    }
    return gated_apply(unrolled(model), variables, images, groups, gates)[0]

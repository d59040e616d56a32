"""Runs a model with a gate on every head and hidden unit of its prunable groups."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.pruning.checks import check_gates, check_groups, check_plan
from vit_jax_tricks.compress.pruning.groups import Group, Plan, unrolled
from vit_jax_tricks.models.gates import nested_gates
from vit_jax_tricks.models.layers.gates import GATES
from vit_jax_tricks.models.stacking import unstack_blocks, unstacked
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
    unchanged. They are the collection of `models.gates`. `options` are those of
    `model.apply` (rngs, mutable).

    Returns:
      The model's result, and its intermediates by path: the outputs after their gates
        as `blocks_0/attn/proj` [b, ..., g, h] and `blocks_0/mlp/fc2` [b, ..., s], and
        the attention probabilities as `blocks_0/attn` [b, ..., g, n, n]. Blocks that
        are scanned or rematerialised have no intermediates.

    Raises: UserError for images of another shape or dtype, groups of another model,
      gates of unknown groups, and gates of another length.
    """
    params = variables["params"]
    params = unstack_blocks(params) if model.scan else params
    check_groups("gated_apply", groups, by_path(params))
    check_gates("gated_apply", groups, gates)
    if gates:
        found = {f"{groups[n].layer}/{groups[n].kind}": g for n, g in gates.items()}
        variables = {**variables, GATES: nested_gates(model, found)}
    places = {group.place for group in groups.values()}
    heads = [group.layer for group in groups.values() if group.kind == "heads"]
    weights = {f"{layer}/Dropout_0": layer for layer in heads}
    seen: dict[str, Array] = {}

    def watch(next_fun, args, kwargs, context):
        path = "/".join(context.module.path)
        if context.method_name == "__call__":
            if path in weights:
                seen[weights[path]] = args[0]
            if path in places:
                seen[path] = args[0]
        return next_fun(*args, **kwargs)

    def run() -> Any:
        return model.apply(variables, images, train=train, **options)

    if model.scan or model.remat:
        return run(), seen
    with nn.intercept_methods(watch):
        return run(), seen


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
    variables = unstacked(variables)
    return gated_apply(unrolled(model), variables, images, groups, gates)[0]

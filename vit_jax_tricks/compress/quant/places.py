"""Finds the places of a model that can be quantised, without changes to its code.

A weight is named after its parameter, `blocks_0/attn/qkv/kernel`; an activation after
the module that takes it, `blocks_0/attn/qkv/input`. Activations belong to modules that
own a kernel and to modules without submodules: linear layers and convolutions, norms,
and dropouts (`blocks_0/attn/Dropout_0/input` is the softmax output).
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.rules import Rule, check_every_rule, match, of_model
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import Parameter, parameters
from vit_jax_tricks.typing import Array, Float, Params


_STACK = re.compile(r"(.*/)?blocks/(.*)")


def input_name(context: Any, args: Sequence[Any]) -> str | None:
    """Name of the activation that a module is called on, or None if it is not one."""
    if context.method_name != "__call__" or not args:
        return None
    if not hasattr(args[0], "dtype") or not jnp.issubdtype(args[0].dtype, jnp.floating):
        return None
    return "/".join((*context.module.path, "input"))


@checked
def input_places(
    model: nn.Module, variables: Any, images: Float[Array, "b h w c"]
) -> list[str]:
    """Names of all activations, in the order of the computation."""
    seen: dict[str, None] = {}

    def record(next_fun, args, kwargs, context):
        if name := input_name(context, args):
            seen.setdefault(name)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    weights = parameters(variables["params"])
    modules = [name.removesuffix("input") for name in seen]
    parents = {m[: i + 1] for m in modules for i, c in enumerate(m[:-1]) if c == "/"}
    return [
        f"{module}input"
        for module in modules
        if f"{module}kernel" in weights or not (module in parents or module == "")
    ]


def layer_names(name: str, weights: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Names of the layers that a place covers: several if scan stacked the blocks."""
    if name in weights:
        return weights[name].names
    stack = _STACK.fullmatch(name)
    before = (stack[1] or "") if stack else ""
    inside = f"{before}blocks/"
    leaf = next((p for path, p in weights.items() if path.startswith(inside)), None)
    if stack is None or leaf is None:
        return (name,)
    block = re.compile(re.escape(before) + r"blocks_\d+/")
    starts = [found[0] for n in leaf.names if (found := block.match(n))]
    return tuple(start + stack[2] for start in starts)


def quantized_weights(params: Params, rules: Sequence[Rule]) -> dict[str, Spec]:
    """Spec of every leaf that the rules quantise, in any parameter tree.

    Raises: UserError as `match` does, and for a rule that matches nothing.
    """
    names = {name: weight.names for name, weight in parameters(params).items()}
    check_every_rule(itertools.chain(*names.values()), rules)
    return match(names, rules)


@checked
def quantized_places(
    model: nn.Module,
    variables: Any,
    images: Float[Array, "b h w c"],
    rules: Sequence[Rule],
) -> dict[str, Spec]:
    """Spec of every weight and activation that the rules quantise.

    Raises: UserError for images of another shape or dtype, as `match` does, for a rule
      that matches nothing, and for activations with `per_channel`.
    """
    weights = parameters(variables["params"])
    rules = of_model(rules, model)
    every = [*weights, *input_places(model, variables, images)]
    names = {name: layer_names(name, weights) for name in every}
    check_every_rule(itertools.chain(*names.values()), rules)
    specs = match(names, rules)
    for name, spec in specs.items():
        if name not in weights and spec.per_channel:
            raise UserError(
                f"{name} is an activation, which has one step: set per_channel=False."
            )
    return specs

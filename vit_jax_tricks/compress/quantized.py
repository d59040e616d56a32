"""Applies a model with quantised weights and activations, in training or evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.compress.calibration import beside_params
from vit_jax_tricks.compress.places import input_name, layer_names
from vit_jax_tricks.compress.ranges import Range
from vit_jax_tricks.compress.rules import Rule, match
from vit_jax_tricks.compress.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_groups import path_name, plan
from vit_jax_tricks.typing import Array, Bool, Num, Params


_RANGE = "input_range"


def quantize_params(
    params: Params,
    ranges: Mapping[str, Range],
    specs: Mapping[str, Spec],
    choose: Callable[[str, Array, Array], Array] = lambda name, x, rounded: rounded,
) -> Params:
    """The same tree with the named weights fake-quantised; works on any pytree.

    `choose` gets the name, the weight and its rounded form, and returns the one to use.
    """

    def value(path: tuple, leaf: Array) -> Array:
        name = path_name(path)
        if name not in ranges:
            return leaf
        return choose(name, leaf, specs[name].apply(leaf, ranges[name]))

    return jax.tree_util.tree_map_with_path(value, params)


def quantized_apply(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Num[Array, "b h w c"],
    ranges: Mapping[str, Range],
    rules: Sequence[Rule],
    *,
    train: bool = False,
    gates: Mapping[str, Bool[Array, ""]] | None = None,
    **options: Any,
) -> Any:
    """`model.apply` with every place in `ranges` fake-quantised by its rule.

    Gradients pass straight through to the parameters, and to the `ranges` of learned
    steps; this is the forward pass of quantisation-aware training. The function is
    pure: compile it with everything but the model and the rules as arguments. `gates`
    say for each place whether it is quantised now, so that one program serves any
    choice; they need unstacked blocks. `options` are those of `model.apply` (rngs,
    mutable).

    Raises: UserError when a range belongs to no rule, or a quantised weight has no
      range.
    """
    weights = plan(variables["params"])
    names = {name: layer_names(name, weights) for name in [*weights, *ranges]}
    specs = match(names, rules)
    for name in {**specs, **ranges}:
        if (name in specs) != (name in ranges):
            lacks = "no range" if name in specs else "a range but no rule"
            raise UserError(
                f"{name} has {lacks}: calibrate with the same rules and model."
            )

    def opened(name: str, x: Array, rounded: Array) -> Array:
        return rounded if gates is None else jnp.where(gates[name], rounded, x)

    def replace(next_fun, args, kwargs, context):
        name = input_name(context, args)
        if name is not None and name in ranges:
            found = context.module.get_variable("params", _RANGE)
            args = (opened(name, args[0], specs[name].apply(args[0], found)), *args[1:])
        return next_fun(*args, **kwargs)

    inputs = {name: found for name, found in ranges.items() if name not in weights}
    params = quantize_params(variables["params"], ranges, specs, opened)
    given = beside_params({**variables, "params": params}, inputs, _RANGE)
    with nn.intercept_methods(replace):
        return model.apply(given, images, train=train, **options)

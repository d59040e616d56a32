"""Applies a model with quantised weights and activations, in training or evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.quant.calibration import beside_params
from vit_jax_tricks.compress.quant.places import input_name, layer_names
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.rules import Rule, match, of_model
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import parameters, path_str
from vit_jax_tricks.typing import Array, Bool, Float, Params


_RANGE = "input_range"


def quantize_params(
    params: Params,
    ranges: Mapping[str, Range],
    specs: Mapping[str, Spec],
    choose: Callable[[str, Array, Array], Array] = lambda name, x, rounded: rounded,
) -> Params:
    """The same tree with the named weights fake-quantised; works on any pytree.

    `choose` gets the name, the weight and its rounded form, and returns the one to use.
    Ranges of other names, such as those of activations, are ignored.

    Raises: UserError for a weight with a range but no spec.
    """

    def value(path: tuple, leaf: Array) -> Array:
        name = path_str(path)
        if name not in ranges:
            return leaf
        if name not in specs:
            raise UserError(
                f'quantize_params: specs has no "{name}", which ranges has.'
            )
        return choose(name, leaf, specs[name].apply(leaf, ranges[name]))

    return jax.tree_util.tree_map_with_path(value, params)


@checked
def quantized_apply(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "b h w c"],
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
    choice; blocks stacked by scan share one. `options` are those of `model.apply`
    (rngs, mutable).

    Raises: UserError for images, ranges or gates of another shape or dtype, gates of
      other places, a range without a rule, and a quantised weight without a range.
    """
    if gates is not None and gates.keys() != ranges.keys():
        odd = sorted(gates.keys() ^ ranges.keys())[0]
        having, lacking = ("gates", "ranges") if odd in gates else ("ranges", "gates")
        raise UserError(
            f'quantized_apply: {lacking} has no "{odd}", which {having} has.'
        )
    weights = parameters(variables["params"])
    names = {name: layer_names(name, weights) for name in [*weights, *ranges]}
    specs = match(names, of_model(rules, model))
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

"""Calibrates ranges of weights and activations from a few batches, for any model."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.inputs import check_float, only_images
from vit_jax_tricks.compress.quant import spec as specs_of
from vit_jax_tricks.compress.quant.places import (
    input_name,
    layer_names,
    quantized_places,
)
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.rules import Rule
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import parameters
from vit_jax_tricks.typing import Array, Float, Params


_STATE = "input_observer"


def beside_params(
    variables: Mapping[str, Any], values: Mapping[str, Any], key: str
) -> dict[str, Any]:
    """The variables, with each value stored as `key` in the module of that input.

    The values are stored among the parameters, so that a scan over stacked blocks gives
    each block its own.
    """
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for name, value in values.items():
        node = params
        for part in name.split("/")[:-1]:
            node = node.setdefault(part, {})
        node[key] = value
    return {**variables, "params": params}


def weight_ranges(params: Params, specs: Mapping[str, Spec]) -> dict[str, Range]:
    """Computes the steps of the named weights: one per weight, or per output channel.

    Output channels are those of the matrix product: heads and their dimensions jointly
    for `qkv/kernel` [d, 3, g, h], d for `proj/kernel` [g, h, d]. Layers stacked by scan
    have separate steps.

    Raises: UserError for `per_channel` on a parameter that is not a matrix.
    """
    table = parameters(params)
    leaves = jax.tree.leaves(params)
    ranges = {}
    for (name, weight), leaf in zip(table.items(), leaves, strict=True):
        if (spec := specs.get(name)) is None:
            continue
        if spec.per_channel and not weight.outputs:
            raise UserError(
                f"{name} {weight.shape} has no output channels: set per_channel=False."
            )
        every = tuple(range(int(weight.stacked), len(weight.shape)))
        axes = weight.inputs if spec.per_channel else every
        ranges[name] = _weight_range(spec, leaf, axes)
    return ranges


_weight_range = jax.jit(specs_of.weight_range, static_argnums=(0, 2))


@checked
def observe(
    model: nn.Module,
    variables: Mapping[str, Any],
    states: Mapping[str, Any],
    images: Float[Array, "b h w c"],
    *,
    specs: Mapping[str, Spec],
) -> dict[str, Any]:
    """Updates the observers' states with one more batch."""

    def watch(next_fun, args, kwargs, context):
        name = input_name(context, args)
        if name is not None and name in states:
            module = context.module
            again = module.has_variable("intermediates", _STATE)  # a repeated call
            state = module.get_variable("intermediates" if again else "params", _STATE)
            state = specs_of.update(specs[name], state, args[0])
            module.put_variable("intermediates", _STATE, state)
        return next_fun(*args, **kwargs)

    given = beside_params(variables, states, _STATE)
    with nn.intercept_methods(watch):
        _, seen = model.apply(given, images, train=False, mutable=["intermediates"])
    after = {}
    for name in states:
        node = seen["intermediates"]
        for part in name.split("/")[:-1]:
            node = node[part]
        after[name] = node[_STATE]
    return after


def calibrate(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Float[Array, "b h w c"]],
    rules: Sequence[Rule],
) -> dict[str, Range]:
    """Calibrates the range of every place that the rules quantise, by name.

    Weights are read once; activations are observed while the model evaluates the
    `batches` of images. 500 or more training images are typical.

    Raises: UserError for a quantised model, no batch, batches that are not images
      alone, activations that are not finite, and as `quantized_places` does.

    >>> import jax
    >>> from vit_jax_tricks import compress, create_model
    >>> sizes = dict(img_size=32, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> rules = compress.standard_rules()
    >>> ranges = compress.calibrate(model, variables, [images], rules)
    >>> len(ranges)  # the kernels and inputs of qkv, proj, fc1 and fc2
    8
    >>> logits, _ = compress.quantized_apply(model, variables, images, ranges, rules)
    >>> logits.shape
    (4, 10)
    """
    check_float("calibrate", model, variables)
    rest = only_images("calibrate", batches)
    first = next(rest)
    specs = quantized_places(model, variables, first, rules)
    weights = parameters(variables["params"])
    ranges = weight_ranges(variables["params"], specs)
    layers = {name: layer_names(name, weights) for name in specs if name not in weights}
    states = {}
    for name, group in layers.items():
        state, number = specs_of.empty(specs[name]), len(group)
        stacked = name not in group
        shape = (number,) if stacked else ()
        spread = partial(_broadcast, shape)
        states[name] = jax.tree.map(spread, state)
    step = jax.jit(partial(observe, model, specs=specs))
    for images in itertools.chain([first], rest):
        states = step(variables, states, images)
    for name, state in states.items():
        number = None if name in layers[name] else len(layers[name])
        ranges[name] = _input_range(specs[name], state, number)
        if not bool(jnp.isfinite(ranges[name].scale).all()):
            raise UserError(
                f"{name} saw values that are not finite: check the images and weights."
            )
    return ranges


def _broadcast(shape: tuple[int, ...], leaf: Array) -> Array:
    return jnp.broadcast_to(leaf, (*shape, *leaf.shape))


@partial(jax.jit, static_argnums=(0, 2))
def _input_range(spec: Spec, state: Any, layers: int | None) -> Range:
    def one(state: Any) -> Range:
        return spec.range(*specs_of.limits(spec, state))

    if layers is None:
        return one(state)
    return jax.lax.map(lambda pair: one(pair[1]), (jnp.arange(layers), state))

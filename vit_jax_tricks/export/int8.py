"""Exports a calibrated model as INT8 ONNX with QuantizeLinear and DequantizeLinear."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx

from vit_jax_tricks.compress.quant.apply import quantized_apply
from vit_jax_tricks.compress.quant.integer import quantize
from vit_jax_tricks.compress.quant.places import layer_names
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.rules import Rule, match, of_model
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.float32 import exportable
from vit_jax_tricks.export.onnx_model import write
from vit_jax_tricks.export.values import QuantizedConstant, Value, constant
from vit_jax_tricks.param_names import parameters, path_str


# Keeps `quantized_apply` from quantising weights, which are stored as levels.
_NO_WEIGHTS: Rule = (r"(?!(.*/)?input$).*", None)


def to_onnx_int8(
    model: nn.Module,
    variables: Mapping[str, Any],
    ranges: Mapping[str, Range],
    rules: Sequence[Rule],
    image_shape: Sequence[int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Exports `compress.quantized_apply` as ONNX, equal up to float32 rounding.

    Each weight in `ranges` is stored as int8 levels with one step for each output
    channel; each activation passes through QuantizeLinear and DequantizeLinear before
    the product that takes it. `ranges` and `rules` are those of `compress.calibrate`;
    input and output are those of `to_onnx`.

    Raises: UserError for 8-bit floats, and as `to_onnx` and `quantized_apply` do.

    >>> import jax
    >>> from vit_jax_tricks import compress, create_model, export
    >>> sizes = dict(img_size=32, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> rules = compress.standard_rules()
    >>> ranges = compress.calibrate(model, variables, [images], rules)
    >>> graph = export.to_onnx_int8(model, variables, ranges, rules)
    >>> export.tensorrt_problems(graph)
    []
    """
    model, variables = exportable("to_onnx_int8", model, variables)
    shape = model.image_shape if image_shape is None else image_shape
    ranges = {name: _fixed(found) for name, found in ranges.items()}
    rules = [
        (pattern, spec and replace(spec, learned=False)) for pattern, spec in rules
    ]
    weights = parameters(variables["params"])
    names = {name: layer_names(name, weights) for name in [*weights, *ranges]}
    specs = match(names, of_model(rules, model))
    inputs = {name: found for name, found in ranges.items() if name not in weights}
    for name in ranges:
        if name in specs and specs[name].values.float8:
            raise UserError(
                f"{name} is quantised to {specs[name].grid}: INT8 files hold integers; "
                "give rules with int8 or fewer bits."
            )

    def logits(tree: Any, images: Any) -> Any:
        variables, inputs = tree
        rest = [_NO_WEIGHTS, *rules]
        return quantized_apply(model, variables, images, inputs, rest)[0]

    def value(path: tuple, leaf: Any) -> Value:
        name = path_str(path).removeprefix("params/")
        if name in specs and name in ranges:
            return _stored(leaf, ranges[name], specs[name])
        return constant(leaf)

    tree = (variables, inputs)
    stored = [
        value(path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]
    leaves = [*stored, *map(constant, jax.tree.leaves(inputs))]
    return write(logits, tree, leaves, shape, type(model).__name__, metadata)


def _fixed(found: Range) -> Range:
    """Converts a learned range to the numbers that it stands for."""
    scale = jnp.maximum(found.scale, jnp.finfo(jnp.float32).tiny)
    if found.zero_point is None:
        return Range(scale)
    return Range(scale, jnp.round(found.zero_point).astype(jnp.int32))


def _stored(leaf: Any, found: Range, spec: Spec) -> QuantizedConstant:
    levels = quantize(leaf, found.scale, found.zero_point, grid=spec.values)
    zero_point = 0 if found.zero_point is None else found.zero_point
    scale = np.asarray(found.scale).reshape(np.shape(found.scale) or (1,) * leaf.ndim)
    return QuantizedConstant(
        np.asarray(levels), scale, np.broadcast_to(zero_point, scale.shape)
    )

"""Translates matrix products and convolutions; stored int8 weights stay int8."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_tricks.export.translate import Translator, floats, rule
from vit_jax_tricks.export.values import (
    Constant,
    QuantizedConstant,
    Shape,
    Size,
    Tensor,
    Value,
    product,
)


@rule("dot_general")
def _dot_general(t: Translator, eqn: Any, values: list[Value]) -> Value:
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    sides = [(values[0], lc, lb), (values[1], rc, rb)]
    constants = [isinstance(value, Constant | QuantizedConstant) for value in values]
    out = t.shape(eqn.outvars[0])
    if all(constants):
        arrays = [floats(value).array for value in values]
        return Constant(np.asarray(eqn.primitive.bind(*arrays, **eqn.params)), out)
    # The right factor is the constant, or the one not contracted along its last axis.
    ready = [contracted[-1:] == (len(v.shape) - 1,) for v, contracted, _ in sides]
    if constants[0] or (not constants[1] and ready == [False, True]):
        found = _product(t, *reversed(sides))
        free = len(values[1].shape) - len(rc) - len(rb)
        batch, rank = len(lb), len(out)
        axes = [*range(batch), *range(batch + free, rank), *range(batch, batch + free)]
        return Tensor(t.graph.transpose(found.name, axes), out, out)
    return _product(t, *sides)


def _product(t: Translator, left: tuple, right: tuple) -> Tensor:
    """[batch, free of left, free of right], the order of axes in JAX."""
    (a, a_sum, batch), (b, b_sum, b_batch) = left, right
    a_free = _rest(a.shape, a_sum, batch)
    b_free = _rest(b.shape, b_sum, b_batch)
    sizes = [
        tuple(value.shape[axis] for axis in axes)
        for value, axes in ((a, batch), (a, a_free), (b, b_free))
    ]
    out = (*sizes[0], *sizes[1], *sizes[2])
    inner, columns = product([a.shape[axis] for axis in a_sum]), product(sizes[2])
    if isinstance(b, Constant | QuantizedConstant) and not batch:
        lead = sizes[1] or (1,)
        x = _merged(t, a, [*a_free, *a_sum], (*lead, inner))
        w = _matrix(t, b, [*b_sum, *b_free], (inner, columns))
        name = t.graph.add("MatMul", [x, w], (*lead, columns))
    else:
        rows = product(sizes[1])
        x = _merged(t, a, [*batch, *a_free, *a_sum], (*sizes[0], rows, inner))
        last = max(b_sum, default=-1) == len(b.shape) - 1
        if last:  # a transposition that the product can absorb
            axes = [*b_batch, *b_free, *b_sum]
            y = t.graph.swapped(_merged(t, b, axes, (*sizes[0], columns, inner)))
        else:
            axes = [*b_batch, *b_sum, *b_free]
            y = _merged(t, b, axes, (*sizes[0], inner, columns))
        name = t.graph.add("MatMul", [x, y], (*sizes[0], rows, columns))
    return Tensor(t.graph.reshape(name, out), out, out)


def _rest(shape: Shape, *axes: Sequence[int]) -> list[int]:
    used = {axis for group in axes for axis in group}
    return [axis for axis in range(len(shape)) if axis not in used]


def _merged(t: Translator, value: Value, axes: list[int], shape: Shape) -> str:
    return t.graph.reshape(t.graph.transpose(t.graph.full(value), axes), shape)


def _matrix(
    t: Translator,
    value: Constant | QuantizedConstant,
    axes: list[int],
    shape: tuple[Size, ...],
) -> str:
    """A constant factor; int8 levels with one step per column are dequantised there."""
    if isinstance(value, QuantizedConstant):
        matrix = value.rearranged(lambda part: part.transpose(axes).reshape(shape))
        name = dequantized(t, matrix, 1)
        if name is not None:
            return name
    return _merged(t, value, axes, shape)


def dequantized(t: Translator, weight: QuantizedConstant, axis: int) -> str | None:
    """A weight stored as levels; None if a step does not belong to a single channel."""
    others = tuple(i for i in range(weight.levels.ndim) if i != axis)
    steps = []
    for part in (weight.scale, weight.zero_point):
        first = part[
            tuple(slice(None) if i == axis else slice(1) for i in range(part.ndim))
        ]
        if not (part == first).all():
            return None
        steps.append(first.squeeze(others))
    zero_point = steps[1].astype(weight.levels.dtype)
    names = [t.graph.constant(x) for x in (weight.levels, steps[0], zero_point)]
    return t.graph.add("DequantizeLinear", names, weight.levels.shape, axis=axis)


@rule("conv_general_dilated")
def _conv(t: Translator, eqn: Any, values: list[Value]) -> Value:
    p = eqn.params
    x, kernel = values
    if set(p["lhs_dilation"]) != {1} or p["batch_group_count"] != 1:
        raise t.unsupported(eqn, " transposed or with groups of images")
    if isinstance(x, Constant):
        raise t.unsupported(eqn, " of constants")
    numbers = p["dimension_numbers"]
    out = t.shape(eqn.outvars[0])
    channels_first = tuple(out[axis] for axis in numbers.out_spec)
    padding = list(zip(*p["padding"], strict=True))
    name = t.graph.add(
        "Conv",
        [
            t.graph.transpose(t.graph.full(x), numbers.lhs_spec),
            _kernel(t, kernel, numbers.rhs_spec),
        ],
        channels_first,
        strides=[int(s) for s in p["window_strides"]],
        pads=[int(width) for side in padding for width in side],
        dilations=[int(d) for d in p["rhs_dilation"]],
        group=int(p["feature_group_count"]),
    )
    axes = [numbers.out_spec.index(axis) for axis in range(len(out))]
    return Tensor(t.graph.transpose(name, axes), out, out)


def _kernel(t: Translator, kernel: Value, axes: Sequence[int]) -> str:
    if isinstance(kernel, QuantizedConstant):
        weight = kernel.rearranged(lambda part: part.transpose(axes))
        name = dequantized(t, weight, 0)
        if name is not None:
            return name
    return t.graph.transpose(t.graph.full(kernel), axes)

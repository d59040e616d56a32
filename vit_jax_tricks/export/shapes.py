"""Translates shape operations: reshape, broadcast, transpose, slice, join and pad."""

from typing import Any

from vit_jax_tricks.export.graph import Graph
from vit_jax_tricks.export.translate import Translator, floats, rule
from vit_jax_tricks.export.values import (
    Batch,
    Constant,
    QuantizedConstant,
    Shape,
    Tensor,
    Value,
    static,
)


def reshaped(t: Translator, value: Any, shape: Shape) -> Value:
    """A value in another shape with the same number of elements."""
    if isinstance(value, QuantizedConstant):
        return value.rearranged(lambda part: part.reshape(shape))
    if isinstance(value, Constant) and static(value.shape):
        return Constant(value.full().reshape(shape), shape)
    name = t.graph.reshape(t.graph.full(value), shape)
    return Tensor(name, shape, shape)


def sliced(
    graph: Graph, name: str, bounds: dict[int, tuple[int, int, int]], shape: Shape
) -> str:
    """Slices from start to end in steps, along the axes in `bounds`."""
    if not bounds:
        return name
    columns = zip(*bounds.values(), strict=True)
    starts, ends, steps = (graph.integers(column) for column in columns)
    axes = graph.integers(list(bounds))
    return graph.add("Slice", [name, starts, ends, axes, steps], shape)


@rule("reshape", "squeeze", "expand_dims")
def _reshape(t: Translator, eqn: Any, values: list[Value]) -> Value:
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        raise t.unsupported(eqn, " with permuted axes")
    return reshaped(t, values[0], t.shape(eqn.outvars[0]))


@rule("broadcast_in_dim")
def _broadcast(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value = floats(values[0])
    shape = t.shape(eqn.outvars[0])
    axes = eqn.params["broadcast_dimensions"]
    dims: list[Any] = [1] * len(shape)
    for size, axis in zip(value.dims, axes, strict=True):
        dims[axis] = size
    if isinstance(value, Constant):
        return Constant(value.array.reshape(dims), shape)
    return Tensor(t.graph.reshape(value.name, tuple(dims)), shape, tuple(dims))


@rule("transpose")
def _transpose(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, axes = values[0], eqn.params["permutation"]
    shape = t.shape(eqn.outvars[0])
    if isinstance(value, QuantizedConstant):
        return value.rearranged(lambda part: part.transpose(axes))
    if isinstance(value, Constant):
        return Constant(value.array.transpose(axes), shape)
    name = t.graph.transpose(value.name, axes)
    return Tensor(name, shape, tuple(value.dims[axis] for axis in axes))


@rule("slice")
def _slice(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, shape = floats(values[0]), t.shape(eqn.outvars[0])
    starts = eqn.params["start_indices"]
    limits = t.sizes(eqn.params["limit_indices"])
    steps = eqn.params["strides"] or (1,) * len(shape)
    bounds, dims = {}, list(value.dims)
    for axis, (start, limit, step) in enumerate(
        zip(starts, limits, steps, strict=True)
    ):
        if value.dims[axis] == 1 or (start, limit, step) == (0, value.shape[axis], 1):
            continue
        if isinstance(limit, Batch):
            raise t.unsupported(eqn, " of some of the images")
        bounds[axis] = (start, limit, step)
        dims[axis] = shape[axis]
    if isinstance(value, Constant):
        parts = [slice(*bounds.get(axis, (None,))) for axis in range(len(shape))]
        return Constant(value.array[tuple(parts)], shape)
    name = sliced(t.graph, value.name, bounds, tuple(dims))
    return Tensor(name, shape, tuple(dims))


@rule("rev")
def _reverse(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, shape = floats(values[0]), t.shape(eqn.outvars[0])
    axes = eqn.params["dimensions"]
    if isinstance(value, Constant) and static(shape):
        return t.fold(eqn, [value])[0]
    if not static([shape[axis] for axis in axes]):
        raise t.unsupported(eqn, " of the order of the images")
    backwards = {axis: (shape[axis] - 1, -shape[axis] - 1, -1) for axis in axes}
    name = sliced(t.graph, t.graph.full(value), backwards, shape)
    return Tensor(name, shape, shape)


@rule("split")
def _split(t: Translator, eqn: Any, values: list[Any]) -> list[Value]:
    value, axis = floats(values[0]), eqn.params["axis"]
    name, start, found = t.graph.full(value), 0, []
    for size, variable in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        shape, end = t.shape(variable), start + int(size)
        part = sliced(t.graph, name, {axis: (start, end, 1)}, shape)
        found.append(Tensor(part, shape, shape))
        start = end
    return found


@rule("concatenate")
def _concatenate(t: Translator, eqn: Any, values: list[Any]) -> Value:
    values = [floats(value) for value in values]
    if all(isinstance(v, Constant) and static(v.shape) for v in values):
        return t.fold(eqn, values)[0]
    names = [t.graph.full(value) for value in values]
    axis = eqn.params["dimension"]
    return t.graph.tensor("Concat", names, t.shape(eqn.outvars[0]), axis=axis)


@rule("stack")
def _stack(t: Translator, eqn: Any, values: list[Any]) -> Value:
    axis, shape = eqn.params["axis"], t.shape(eqn.outvars[0])
    values = [floats(value) for value in values]
    if all(isinstance(v, Constant) and static(v.shape) for v in values):
        return t.fold(eqn, values)[0]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    names = [t.graph.reshape(t.graph.full(value), one) for value in values]
    return t.graph.tensor("Concat", names, shape, axis=axis)


@rule("pad")
def _pad(t: Translator, eqn: Any, values: list[Any]) -> Value:
    value, filling = (floats(value) for value in values)
    shape, config = t.shape(eqn.outvars[0]), eqn.params["padding_config"]
    if isinstance(value, Constant) and static(value.shape):
        return t.fold(eqn, [value, filling])[0]
    name = t.graph.full(value)
    for axis, (_, _, between) in enumerate(config):
        if between:
            name = _spread(t.graph, name, t.graph.name(filling), axis, between)
    if min(width for before, after, _ in config for width in (before, after)) < 0:
        raise t.unsupported(eqn, " with negative widths")
    edges = [config[axis][side] for side in (0, 1) for axis in range(len(config))]
    if any(edges):
        name = _edged(t.graph, name, t.graph.name(filling), edges, shape)
    return Tensor(name, shape, shape)


def _edged(g: Graph, name: str, filling: str, edges: list[int], shape: Shape) -> str:
    widths = g.integers(edges)
    return g.add("Pad", [name, widths, filling], shape)


def _spread(g: Graph, name: str, filling: str, axis: int, between: int) -> str:
    """Puts `between` fill values between the entries of an axis, by an extra axis."""
    shape = g.shapes[name]
    before, (length, *after) = shape[:axis], shape[axis:]
    assert isinstance(length, int)
    name = g.reshape(name, (*before, length, 1, *after))
    edges = [0] * (2 * len(shape) + 2)
    edges[len(shape) + 1 + axis + 1] = between
    name = _edged(g, name, filling, edges, (*before, length, between + 1, *after))
    wide = length * (between + 1)
    name = g.reshape(name, (*before, wide, *after))
    end = wide - between
    return sliced(g, name, {axis: (0, end, 1)}, (*before, end, *after))

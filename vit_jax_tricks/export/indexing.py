"""Translates gathers whose indices do not depend on the images."""

from typing import Any

import numpy as np

from vit_jax_tricks.export.shapes import sliced
from vit_jax_tricks.export.translate import Translator, floats, rule
from vit_jax_tricks.export.values import Constant, Shape, Tensor, Value, static


@rule("gather")
def _gather(t: Translator, eqn: Any, values: list[Any]) -> Value:
    operand, indices = (floats(value) for value in values)
    if not isinstance(indices, Constant):
        raise t.unsupported(eqn, " by computed indices")
    if isinstance(operand, Constant) and static(operand.shape):
        return t.fold(eqn, [operand, indices])[0]
    starts = indices.full()
    window = t.sizes(eqn.params["slice_sizes"])
    numbers = eqn.params["dimension_numbers"]
    _check(t, eqn, starts, operand.shape, window)
    if numbers.operand_batching_dims:
        return _along(t, eqn, operand, starts)
    name, shape = t.graph.full(operand), list(operand.shape)
    if starts.ndim == 1:  # one window
        bounds = {}
        for axis, start in zip(numbers.start_index_map, starts, strict=True):
            if window[axis] != shape[axis]:
                bounds[axis] = (int(start), int(start) + int(window[axis]), 1)
        name = sliced(t.graph, name, bounds, tuple(window))
        out = t.shape(eqn.outvars[0])
        return Tensor(t.graph.reshape(name, out), out, out)
    axes = numbers.start_index_map
    if any(window[axis] != 1 for axis in axes) or axes != numbers.collapsed_slice_dims:
        raise t.unsupported(eqn, " of several wide windows")
    rows = _separate(t, eqn, starts)
    # Axes are taken one at a time, last first, so that the others keep their places.
    for axis, row in reversed(list(zip(axes, rows, strict=True))):
        shape[axis : axis + 1] = row.shape
        name = _take(t, name, axis, row, tuple(shape))
    return _arranged(t, eqn, name, axes, [row.ndim for row in rows])


def _check(t: Translator, eqn: Any, starts: Any, shape: Shape, window: Shape) -> None:
    axes = eqn.params["dimension_numbers"].start_index_map
    for i, axis in enumerate(axes):
        low, high = int(starts[..., i].min()), int(starts[..., i].max())
        size, part = shape[axis], window[axis]
        whole = size == part and (low, high) == (0, 0)
        inside = isinstance(size, int) and isinstance(part, int)
        if not whole and not (inside and low >= 0 and high <= size - part):
            raise t.unsupported(eqn, " beyond the ends of an array")


def _separate(t: Translator, eqn: Any, starts: np.ndarray) -> list[np.ndarray]:
    """Indices along each axis; for several axes, the vectors whose mesh they are."""
    *places, count = starts.shape
    if count == 1:
        return [starts[..., 0]]
    if count != len(places):
        raise t.unsupported(eqn, " at scattered places")
    rows = []
    for i in range(count):
        row = np.moveaxis(starts[..., i], i, 0).reshape(places[i], -1)[:, 0]
        mesh = row.reshape([-1 if i == axis else 1 for axis in range(count)])
        if not (np.broadcast_to(mesh, places) == starts[..., i]).all():
            raise t.unsupported(eqn, " at scattered places")
        rows.append(row)
    return rows


def _take(t: Translator, name: str, axis: int, row: np.ndarray, shape: Shape) -> str:
    steps = np.diff(row) if row.ndim == 1 else np.array([])
    if steps.size and steps[0] > 0 and (steps == steps[0]).all():
        bounds = {axis: (int(row[0]), int(row[-1]) + 1, int(steps[0]))}
        return sliced(t.graph, name, bounds, shape)
    index = t.graph.integers(row)
    return t.graph.add("Gather", [name, index], shape, axis=axis)


def _arranged(
    t: Translator, eqn: Any, name: str, axes: Any, ranks: list[int]
) -> Tensor:
    """Moves the index axes to their place in JAX, among the window axes."""
    out = t.shape(eqn.outvars[0])
    offset = list(eqn.params["dimension_numbers"].offset_dims)
    taken, kept, place = [], [], 0
    for axis in range(len(eqn.invars[0].aval.shape)):
        width = ranks[list(axes).index(axis)] if axis in axes else 1
        (taken if axis in axes else kept).extend(range(place, place + width))
        place += width
    order: list[int] = [0] * len(out)
    rest = [axis for axis in range(len(out)) if axis not in offset]
    for axis, source in zip(offset + rest, kept + taken, strict=True):
        order[axis] = source
    return Tensor(t.graph.transpose(name, order), out, out)


def _along(t: Translator, eqn: Any, operand: Any, starts: np.ndarray) -> Tensor:
    """One element for each index: `take_along_axis` with one table for all images."""
    numbers = eqn.params["dimension_numbers"]
    batching = numbers.operand_batching_dims
    (axis,) = numbers.start_index_map
    if (
        len(batching) != 1
        or starts.ndim != 3
        or numbers.start_indices_batching_dims != (0,)
        or numbers.collapsed_slice_dims != (axis,)
        or batching[0] > axis
    ):
        raise t.unsupported(eqn, " along several axes")
    rank, out = len(operand.shape), t.shape(eqn.outvars[0])
    dims, shape = [1] * rank, list(operand.shape)
    dims[batching[0]], dims[axis] = starts.shape[:2]
    shape[axis] = starts.shape[1]
    table = Constant(starts[..., 0].astype(np.int64).reshape(dims), tuple(shape))
    names = [t.graph.full(operand), t.graph.full(table)]
    name = t.graph.add("GatherElements", names, tuple(shape), axis=axis)
    offset = list(numbers.offset_dims)
    rest = [i for i in range(len(out)) if i not in offset]
    others = [i for i in range(rank) if i not in (batching[0], axis)]
    order = [0] * len(out)
    for place, source in zip(offset + rest, [*others, batching[0], axis], strict=True):
        order[place] = source
    return Tensor(t.graph.transpose(name, order), out, out)

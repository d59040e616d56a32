"""The graph under construction: named nodes and constants, without duplicates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_tricks.export.values import (
    Batch,
    Constant,
    QuantizedConstant,
    Shape,
    Tensor,
    Value,
    static,
)


@dataclasses.dataclass(frozen=True)
class Node:
    """One ONNX operator with one output, named by the node's key in the graph."""

    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order of the computation, constants, and the shape of each.

    `images` is the name of the input. Shapes are those before broadcasting.
    """

    def __init__(self, images: str, shape: Shape):
        self.images = images
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {images: shape}
        self._known: dict[Any, str] = {}

    def constant(self, array: Any) -> str:
        """Adds a constant and returns its name."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"c{len(self.constants)}"
            self.constants[name] = array
            self.shapes[name] = array.shape
            self._known[key] = name
        return self._known[key]

    def integers(self, values: Any) -> str:
        """Adds an int64 constant, such as a shape, and returns its name."""
        return self.constant(np.asarray(values, np.int64))

    def add(self, op: str, inputs: Sequence[str], shape: Shape, **attributes) -> str:
        """Adds an operator and returns its output's name; duplicates are shared."""
        key = (op, tuple(inputs), repr(sorted(attributes.items())))
        if key not in self._known:
            name = f"{op.lower()}_{len(self.nodes)}"
            self.nodes[name] = Node(op, tuple(inputs), attributes)
            self.shapes[name] = shape
            self._known[key] = name
        return self._known[key]

    def node(self, name: str) -> Node:
        """The node that produces a tensor; an empty one for constants and input."""
        return self.nodes.get(name, Node("", (), {}))

    def name(self, value: Value) -> str:
        """Name of a value in its `dims`, for operators that broadcast."""
        if isinstance(value, Tensor):
            return value.name
        if isinstance(value, QuantizedConstant):
            value = value.dequantized()
        return self.constant(value.array)

    def full(self, value: Value) -> str:
        """Name of a value in its full shape."""
        if isinstance(value, Constant) and static(value.shape):
            return self.constant(value.full())
        name = self.name(value)
        if value.dims == value.shape:
            return name
        return self.add("Expand", [name, self._extent(value.shape)], value.shape)

    def tensor(self, op: str, inputs: Sequence[str], shape: Shape, **more) -> Tensor:
        """`add`, returned as a value in its full shape."""
        return Tensor(self.add(op, inputs, shape, **more), shape, shape)

    def reshape(self, name: str, shape: Shape) -> str:
        """Reshapes a tensor; consecutive reshapes are merged."""
        while self.node(name).op == "Reshape":
            name = self.nodes[name].inputs[0]
        if self.shapes[name] == shape:
            return name
        if name in self.constants:
            return self.constant(self.constants[name].reshape(shape))
        target = [-1 if isinstance(size, Batch) else size for size in shape]
        return self.add("Reshape", [name, self.integers(target)], shape)

    def transpose(self, name: str, axes: Sequence[int]) -> str:
        """Permutes the axes of a tensor; consecutive transpositions are merged."""
        node = self.node(name)
        if node.op == "Transpose":
            axes = [node.attributes["perm"][axis] for axis in axes]
            name = node.inputs[0]
        if list(axes) == sorted(axes):
            return name
        if name in self.constants:
            return self.constant(self.constants[name].transpose(axes))
        shape = tuple(self.shapes[name][axis] for axis in axes)
        return self.add("Transpose", [name], shape, perm=[int(axis) for axis in axes])

    def swapped(self, name: str) -> str:
        """Swaps the last two axes, by an operator that products can absorb."""
        *rest, rows, columns = self.shapes[name]
        axes = [*range(len(rest)), len(rest) + 1, len(rest)]
        return self.add("Transpose", [name], (*rest, columns, rows), perm=axes)

    def scalar(self, name: str) -> float:
        """Value of a one-element constant; nan for anything else."""
        array = self.constants.get(name)
        return np.nan if array is None or array.size != 1 else float(array.item())

    def _extent(self, shape: Shape) -> str:
        """A shape as a tensor, computed if it depends on the number of images."""
        if static(shape):
            return self.integers(shape)
        batch = self.add("Shape", [self.images], (1,), start=0, end=1)
        parts = []
        for size in shape:
            if not isinstance(size, Batch):
                parts.append(self.integers([size]))
            elif size.times == 1:
                parts.append(batch)
            else:
                times = self.integers([size.times])
                parts.append(self.add("Mul", [batch, times], (1,)))
        return self.add("Concat", parts, (len(shape),), axis=0)


def broadcast(*shapes: Shape) -> Shape:
    """Shape to which operands of equal rank are broadcast."""
    return tuple(
        next((size for size in axis if size != 1), 1)
        for axis in zip(*shapes, strict=True)
    )

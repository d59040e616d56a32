"""Fuses patterns of nodes for which ONNX has a single operator.

Each pattern inspects one node and its inputs, and returns the node to put in its place;
nodes that are no longer read are removed at the end.
"""

from collections.abc import Callable

import numpy as np

from vit_jax_tricks.export.graph import Graph, Node
from vit_jax_tricks.export.join import insert, join


Pattern = Callable[[Graph, str], Node | None]


def fuse(graph: Graph, outputs: list[str]) -> None:
    """Rewrites the graph in order and removes nodes that the outputs do not need."""
    for name in list(graph.nodes):
        for pattern in PATTERNS:
            found = pattern(graph, name)
            if found is not None:
                graph.nodes[name] = found
    join(graph)
    _prune(graph, outputs)


def _prune(graph: Graph, outputs: list[str]) -> None:
    needed = set(outputs)
    for name in reversed(list(graph.nodes)):
        if name in needed:
            needed.update(graph.nodes[name].inputs)
        else:
            del graph.nodes[name]
    for name in list(graph.constants):
        if name not in needed:
            del graph.constants[name]


def of(graph: Graph, name: str, *ops: str) -> tuple[str, ...] | None:
    """The inputs of a node if it is the last of a chain of operators, else None.

    `of(g, x, "Reciprocal", "Sqrt")` are the inputs of Sqrt in Reciprocal(Sqrt(...)).
    """
    inputs: tuple[str, ...] = (name,)
    for op in ops:
        node = graph.node(inputs[0])
        if node.op != op:
            return None
        inputs = node.inputs
    return inputs


def number(graph: Graph, name: str, op: str) -> tuple[str, float] | None:
    """(x, value) of `op(x, value)`, with the value on either side."""
    node = graph.node(name)
    if node.op == op:
        for x, other in (node.inputs, node.inputs[::-1]):
            value = graph.scalar(other)
            if not np.isnan(value):
                return x, value
    return None


def gelu(graph: Graph, name: str) -> Node | None:
    """Rewrites 0.5 x (1 - erf(-x / sqrt(2))) as 0.5 (x (1 + erf(x / sqrt(2)))).

    ONNX Runtime fuses this form into one operator, bias included; it fuses ONNX's own
    `Gelu` (opset 20) without the bias.
    """
    node = graph.node(name)
    if node.op != "Mul":
        return None
    for half, complement in (node.inputs, node.inputs[::-1]):
        scaled = number(graph, half, "Mul")
        difference = of(graph, complement, "Sub")
        argument = difference and of(graph, difference[1], "Erf")
        inner = argument and number(graph, argument[0], "Mul")
        if not scaled or not difference or not inner:
            continue
        factors = (scaled[1], graph.scalar(difference[0]), inner[1])
        right = np.allclose(factors, (0.5, 1, 0.5**0.5), rtol=1e-6, atol=0)
        if right and of(graph, inner[0], "Neg") == (scaled[0],):
            return _gelu(graph, name, scaled[0])
    return None


def _gelu(graph: Graph, name: str, x: str) -> Node:
    root, one, half = (graph.constant(np.float32(n)) for n in (2**0.5, 1, 0.5))
    made = x
    for op, other in (("Div", root), ("Erf", None), ("Add", one), ("Mul", x)):
        inputs = (made,) if other is None else (made, other)
        key = f"{name}_{op.lower()}"
        made = insert(graph, key, Node(op, inputs, {}), graph.shapes[x], name)
    return Node("Mul", (made, half), {})


def softmax(graph: Graph, name: str) -> Node | None:
    """Matches exp(x - max x) / sum exp(x - max x)."""
    node = graph.node(name)
    if node.op != "Div":
        return None
    exponential, total = node.inputs
    summed = of(graph, total, "ReduceSum")
    difference = of(graph, exponential, "Exp", "Sub")
    if summed is None or difference is None or summed[0] != exponential:
        return None
    highest = of(graph, difference[1], "ReduceMax")
    axes = graph.constants.get(summed[1])
    if axes is None or axes.size != 1 or highest != (difference[0], summed[1]):
        return None
    return Node("Softmax", (difference[0],), {"axis": int(axes[0])})


def mean(graph: Graph, name: str) -> Node | None:
    """Matches sum x / n."""
    divided = number(graph, name, "Div")
    summed = divided and of(graph, divided[0], "ReduceSum")
    if not divided or not summed or graph.node(name).inputs[0] != divided[0]:
        return None
    shape = graph.shapes[summed[0]]
    lengths = [shape[axis] for axis in graph.constants[summed[1]]]
    if any(not isinstance(n, int) for n in lengths) or divided[1] != np.prod(lengths):
        return None
    return Node("ReduceMean", summed, graph.node(divided[0]).attributes)


def layer_norm(graph: Graph, name: str) -> Node | None:
    """Matches (x - mean x) / sqrt(mean (x - mean x)^2 + eps) over the last axis."""
    node = graph.node(name)
    if node.op != "Mul":
        return None
    for centred, factor in (node.inputs, node.inputs[::-1]):
        variance = of(graph, factor, "Reciprocal", "Sqrt")
        offset = variance and number(graph, variance[0], "Add")
        square = offset and of(graph, offset[0], "ReduceMean")
        parts = of(graph, centred, "Sub")
        if not offset or not square or not parts:
            continue
        average = of(graph, parts[1], "ReduceMean")
        last = len(graph.shapes[parts[0]]) - 1
        if (
            of(graph, square[0], "Mul") == (centred, centred)
            and average == (parts[0], square[1])
            and graph.constants[square[1]].tolist() == [last]
        ):
            ones = graph.constant(np.ones(graph.shapes[parts[0]][-1:], np.float32))
            attributes = {"axis": -1, "epsilon": offset[1]}
            return Node("LayerNormalization", (parts[0], ones), attributes)
    return None


def norm_gain(graph: Graph, name: str) -> Node | None:
    """Matches a layer norm times a gain for each channel, plus an offset."""
    node = graph.node(name)
    if node.op not in ("Mul", "Add"):
        return None
    for normed, other in (node.inputs, node.inputs[::-1]):
        inner = graph.node(normed)
        row = _row(graph, normed, other)
        if inner.op != "LayerNormalization" or row is None or len(inner.inputs) != 2:
            continue
        if node.op == "Add":
            offset = (*inner.inputs, graph.constant(row))
            return Node("LayerNormalization", offset, inner.attributes)
        if (graph.constants[inner.inputs[1]] == 1).all():
            gain = (inner.inputs[0], graph.constant(row))
            return Node("LayerNormalization", gain, inner.attributes)
    return None


def bias_before_reshape(graph: Graph, name: str) -> Node | None:
    """Rewrites reshape(x W) + b as reshape(x W + b), so kernels can fuse the bias."""
    node = graph.node(name)
    if node.op != "Add":
        return None
    for split, other in (node.inputs, node.inputs[::-1]):
        reshaped = of(graph, split, "Reshape")
        factors = reshaped and of(graph, reshaped[0], "MatMul")
        if not reshaped or not factors or len(graph.shapes[factors[1]]) != 2:
            continue
        shape = graph.shapes[reshaped[0]]
        row = _row(graph, split, other, shape[-1])
        if row is not None:
            added = Node("Add", (reshaped[0], graph.constant(row)), {})
            key = insert(graph, f"{name}_sum", added, shape, name)
            return Node("Reshape", (key, reshaped[1]), {})
    return None


def bias_as_vector(graph: Graph, name: str) -> Node | None:
    """Rewrites x + b [1, ..., 1, c] with b [c], which ONNX Runtime can fuse."""
    node = graph.node(name)
    if node.op != "Add":
        return None
    for tensor, other in (node.inputs, node.inputs[::-1]):
        row = _row(graph, tensor, other)
        if row is not None and graph.shapes[name] == graph.shapes[tensor]:
            return Node("Add", (tensor, graph.constant(row)), {})
    return None


def scale_after_transpose(graph: Graph, name: str) -> Node | None:
    """Rewrites transpose(a x) as a transpose(x), so that a product can absorb a."""
    node = graph.node(name)
    scaled = node.op == "Transpose" and number(graph, node.inputs[0], "Mul")
    if not scaled:
        return None
    x, factor = scaled
    first = Node("Transpose", (x,), node.attributes)
    moved = insert(graph, f"{name}_unscaled", first, graph.shapes[name], name)
    return Node("Mul", (moved, graph.constant(np.float32(factor))), {})


def fake_quant(graph: Graph, name: str) -> Node | None:
    """Matches s (clip(round(x / s) + z, low, high) - z) and returns two nodes."""
    found = number(graph, name, "Mul")
    if found is None:
        return None
    level, step = found
    chain = {}
    for op in ("Sub", "Min", "Max", "Add"):
        if (part := number(graph, level, op)) is not None:
            level, chain[op] = part
    rounded = of(graph, level, "Round")
    scaled = rounded and number(graph, rounded[0], "Mul")
    low, high = chain.get("Max", -np.inf), chain.get("Min", np.inf)
    zero_point = chain.get("Sub", 0.0)
    if not scaled or zero_point != chain.get("Add", 0.0) or not np.isfinite(high - low):
        return None
    x, dtype = scaled[0], np.dtype(np.int8 if low < 0 else np.uint8)
    limits = np.iinfo(dtype)
    steps = [graph.constant(np.float32(step)), graph.constant(dtype.type(zero_point))]
    if (low, high) != (limits.min, limits.max):
        ends = [np.float32((end - zero_point) * step) for end in (low, high)]
        clip = Node("Clip", (x, *map(graph.constant, ends)), {})
        x = insert(graph, f"{name}_clip", clip, graph.shapes[x], name)
    levels = Node("QuantizeLinear", (x, *steps), {})
    levels = insert(graph, f"{name}_levels", levels, graph.shapes[x], name)
    return Node("DequantizeLinear", (levels, *steps), {})


def levels_last(graph: Graph, name: str) -> Node | None:
    """Rewrites reshape(dequantise(x)) as dequantise(reshape(x)).

    Quantisation then stands directly before the product that it belongs to.
    """
    node = graph.node(name)
    if node.op not in ("Reshape", "Transpose"):
        return None
    source, *rest = node.inputs
    outer = graph.node(source)
    inner = of(graph, source, "DequantizeLinear", "QuantizeLinear")
    if inner is None or graph.constants[inner[1]].ndim:
        return None
    shape = graph.shapes[name]
    first = Node(node.op, (inner[0], *rest), node.attributes)
    moved = insert(graph, f"{name}_float", first, shape, name)
    second = Node("QuantizeLinear", (moved, *inner[1:]), {})
    levels = insert(graph, f"{name}_levels", second, shape, name)
    return Node("DequantizeLinear", (levels, *outer.inputs[1:]), {})


def _row(
    graph: Graph, tensor: str, other: str, size: object = None
) -> np.ndarray | None:
    """A constant [1, ..., 1, c] beside a tensor [..., c], as a vector; else None.

    With `size`, the last axes of the tensor together may be those c channels.
    """
    array = graph.constants.get(other)
    shape = graph.shapes[tensor]
    if array is None or len(array.shape) != len(shape):
        return None
    lead = next((i for i, n in enumerate(array.shape) if n != 1), len(shape) - 1)
    if array.shape[lead:] != shape[lead:] or array.size != (size or shape[-1]):
        return None
    return array.reshape(-1)


PATTERNS: tuple[Pattern, ...] = (
    fake_quant,
    levels_last,
    mean,
    gelu,
    softmax,
    layer_norm,
    norm_gain,
    bias_before_reshape,
    bias_as_vector,
    scale_after_transpose,
)

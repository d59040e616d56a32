"""Joins int8 products of the same input into one product.

ONNX Runtime has int8 kernels for a quantised tensor that is read by one product, but
falls back to float kernels if several read it, such as the projections to q, k and v of
the same tokens.
"""

import numpy as np

from vit_jax_tricks.export.graph import Graph, Node
from vit_jax_tricks.export.values import Shape


def insert(graph: Graph, key: str, node: Node, shape: Shape, before: str) -> str:
    """Inserts a node before another one, in the order of the computation."""
    names = list(graph.nodes)
    later = names[names.index(before) :]
    moved = [(name, graph.nodes.pop(name)) for name in later]
    graph.nodes[key] = node
    graph.nodes.update(moved)
    graph.shapes[key] = shape
    return key


def join(graph: Graph) -> None:
    """Joins products of the same levels with int8 weights, columns side by side."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, node in graph.nodes.items():
        levels = [graph.node(source) for source in node.inputs]
        if node.op != "MatMul" or {n.op for n in levels} != {"DequantizeLinear"}:
            continue
        x, weight = levels
        quantized = graph.node(x.inputs[0])
        if quantized.op == "QuantizeLinear" and weight.inputs[0] in graph.constants:
            groups.setdefault(quantized.inputs, []).append(name)
    for names in groups.values():
        if len(names) > 1:
            _side_by_side(graph, names)


def _side_by_side(graph: Graph, names: list[str]) -> None:
    first = names[0]
    x, weight = graph.node(first).inputs
    lead = graph.shapes[first][:-1]
    parts = [graph.node(graph.node(name).inputs[1]).inputs for name in names]
    whole = [
        graph.constant(np.concatenate([graph.constants[part[i]] for part in parts], -1))
        for i in range(3)
    ]
    attributes = graph.node(weight).attributes
    wide = Node("DequantizeLinear", tuple(whole), attributes)
    shape = graph.shapes[whole[0]]
    factor = insert(graph, f"{first}_weights", wide, shape, first)
    product = Node("MatMul", (x, factor), {})
    made = insert(graph, f"{first}_joined", product, (*lead, shape[-1]), first)
    start = 0
    for name in names:
        end = start + graph.shapes[name][-1]
        ends = [graph.integers([value]) for value in (start, end, len(lead), 1)]
        graph.nodes[name] = Node("Slice", (made, *ends), {})
        start = end

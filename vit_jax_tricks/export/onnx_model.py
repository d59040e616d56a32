"""Exports a model as ONNX for any batch size: traces, translates, fuses, writes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import helper, numpy_helper

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import elementwise, indexing, products, reductions, shapes
from vit_jax_tricks.export.float32 import exportable
from vit_jax_tricks.export.fuse import fuse
from vit_jax_tricks.export.graph import Graph, Node
from vit_jax_tricks.export.translate import Translator, trace
from vit_jax_tricks.export.values import Batch, Shape, Value, constant


OPSET = 19
IR_VERSION = 9  # that goes with this opset
IMAGES, LOGITS = "images", "logits"
LIMIT = 2**31  # largest protobuf message, in bytes
_MODULES = (elementwise, indexing, products, reductions, shapes)  # they fill RULES


def to_onnx(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Sequence[int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Exports the logits of `model.apply(variables, images, train=False)` in float32.

    The graph takes normalised `images` [batch, h, w, c] of `image_shape` (h, w, c), by
    default the model's, and returns `logits` [batch, k], for any batch size. `metadata`
    is stored in the file.

    Raises: UserError for a quantised model (see `to_onnx_int8`), images that the model
      does not take and, naming it, an operation that cannot be translated.

    >>> import jax
    >>> from vit_jax_tricks import create_model, export
    >>> sizes = dict(img_size=32, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> graph = export.to_onnx(model, variables)
    >>> [node.name for node in graph.graph.output]
    ['logits']
    >>> content = graph.SerializeToString()  # the bytes of an .onnx file
    """
    model, variables = exportable("to_onnx", model, variables)
    shape = model.image_shape if image_shape is None else image_shape

    def logits(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, train=False)[0]

    leaves = [constant(leaf) for leaf in jax.tree.leaves(variables)]
    subject = type(model).__name__
    return write(logits, variables, leaves, shape, subject, metadata)


def write(
    function: Callable,
    tree: Any,
    leaves: Sequence[Value],
    image_shape: Sequence[int],
    subject: str,
    metadata: Mapping[str, str] | None,
) -> onnx.ModelProto:
    """Exports `function(tree, images)`, with the leaves of the tree as given values."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    graph = Graph(IMAGES, (Batch(1), *image_shape))
    translator = Translator(graph, batch, subject)
    closed = trace(function, tree, images)
    seen = shapes.Tensor(IMAGES, graph.shapes[IMAGES], graph.shapes[IMAGES])
    (found,) = translator.run(closed.jaxpr, closed.consts, [*leaves, seen])
    name = graph.full(found)
    fuse(graph, [name])
    _unshare(graph)
    return _proto(graph, name, translator.shape(closed.jaxpr.outvars[0]), metadata)


def _unshare(graph: Graph) -> None:
    """Gives every stored weight its own levels and zero points.

    When onnxruntime converts them to uint8 (`proof.PRECISE`), it fails on shared ones.
    """
    taken = set()
    for key, node in graph.nodes.items():
        if node.op != "DequantizeLinear" or node.inputs[0] not in graph.constants:
            continue
        inputs = list(node.inputs)
        for i in (0, 2):
            if inputs[i] in taken:
                inputs[i] = f"{inputs[i]}_of_{key}"
                graph.constants[inputs[i]] = graph.constants[node.inputs[i]]
            taken.add(inputs[i])
        graph.nodes[key] = Node(node.op, tuple(inputs), node.attributes)


def _proto(
    graph: Graph, output: str, shape: Shape, metadata: Mapping[str, str] | None
) -> onnx.ModelProto:
    nodes = [_node(name, node) for name, node in graph.nodes.items()]
    nodes.append(helper.make_node("Identity", [output], [LOGITS]))
    body = helper.make_graph(
        nodes,
        "vit_jax_tricks",
        [_info(IMAGES, graph.shapes[IMAGES])],
        [_info(LOGITS, shape)],
        [numpy_helper.from_array(a, name) for name, a in graph.constants.items()],
    )
    model = helper.make_model(
        body,
        producer_name="vit_jax_tricks",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _node(name: str, node: Node) -> onnx.NodeProto:
    attributes = dict(node.attributes)
    if node.op == "Cast":
        dtype = np.dtype(attributes["to"])
        attributes["to"] = helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_node(node.op, node.inputs, [name], name=name, **attributes)


def _info(name: str, shape: Shape) -> onnx.ValueInfoProto:
    sizes = ["batch" if isinstance(size, Batch) else size for size in shape]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def serialized(model: onnx.ModelProto) -> bytes:
    """Bytes of an .onnx file.

    Raises: UserError for a model of more than 2 GB.
    """
    if (size := model.ByteSize()) >= LIMIT:
        raise UserError(
            f"the model takes {size / 1e9:.1f} GB, but an .onnx file holds 2.1 GB; "
            "give --format=stablehlo."
        )
    return model.SerializeToString()

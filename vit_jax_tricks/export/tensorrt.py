"""Checks TensorRT's rules for explicitly quantised graphs, without TensorRT.

Source: the comments of IQuantizeLayer in NVIDIA's NvInfer.h, and its best practices for
placing Q/DQ layers.
"""

import numpy as np
import onnx
from onnx import numpy_helper


_AXES = {"MatMul": 1, "Conv": 0}  # the output channels of a weight
_WEIGHT = 1  # index of the weight among a product's inputs


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """Lists the rules that a graph breaks, one line each; empty if TensorRT accepts it.

    The rules: zero points are 0 and levels int8; steps are positive constants, one for
    each activation, and one for the whole or for each output channel of a weight; each
    QuantizeLinear is followed by a DequantizeLinear with the same step, directly before
    a product whose other factor is also quantised; weights are stored as levels.
    """
    return _Checker(model).problems()


class _Checker:
    def __init__(self, model: onnx.ModelProto):
        self._nodes = list(model.graph.node)
        self._constants = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
        }
        self._made = {name: node for node in self._nodes for name in node.output}
        self._read: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self._nodes:
            for place, name in enumerate(node.input):
                self._read.setdefault(name, []).append((node, place))

    def problems(self) -> list[str]:
        found = []
        for node in self._nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                found += [f"{node.output[0]}: {why}" for why in self._steps(node)]
            if node.op_type == "QuantizeLinear":
                found += [f"{node.output[0]}: {why}" for why in self._pair(node)]
            if node.op_type == "DequantizeLinear":
                found += [f"{node.output[0]}: {why}" for why in self._place(node)]
        return found

    def _steps(self, node: onnx.NodeProto) -> list[str]:
        scale = self._constants.get(node.input[1])
        zero_point = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or (len(node.input) > 2 and zero_point is None):
            return ["the step and zero point must be constants"]
        found = []
        if not (scale > 0).all():
            found.append("steps must be positive")
        if zero_point is None or zero_point.dtype != np.int8:
            found.append("levels must be int8, with a zero point of that type")
        elif zero_point.any():
            found.append("zero points must be 0")
        return found

    def _pair(self, node: onnx.NodeProto) -> list[str]:
        found = []
        scale = self._constants.get(node.input[1])
        if scale is not None and scale.size != 1:
            found.append("an activation must have one step")
        for after, _ in self._read.get(node.output[0], []):
            if after.op_type != "DequantizeLinear":
                found.append(f"levels go to {after.op_type}, not to DequantizeLinear")
            elif list(after.input[1:]) != list(node.input[1:]):
                found.append("DequantizeLinear must have the step of QuantizeLinear")
        return found

    def _place(self, node: onnx.NodeProto) -> list[str]:
        stored = self._constants.get(node.input[0])
        if stored is not None and stored.dtype != np.int8:
            return ["weights must be stored as int8"]
        found = []
        for after, place in self._read.get(node.output[0], []):
            axis = _AXES.get(after.op_type)
            if axis is None:
                found.append(f"stands before {after.op_type}, not before a product")
                continue
            if stored is not None and not self._by_channel(node, axis):
                found.append(f"steps must be those of axis {axis}, the output channels")
            if (stored is not None) != (place == _WEIGHT):
                found.append("the weight must be the second factor, and constant")
            other = self._made.get(after.input[1 - place])
            if other is None or other.op_type != "DequantizeLinear":
                found.append(f"the other factor of {after.output[0]} is in float")
        return found

    def _by_channel(self, node: onnx.NodeProto, axis: int) -> bool:
        scale = self._constants.get(node.input[1])
        if scale is None or scale.ndim == 0:
            return scale is not None
        given = {a.name: a.i for a in node.attribute}.get("axis", 1)
        sizes = self._constants[node.input[0]].shape
        return given == axis and scale.shape == (sizes[axis],)

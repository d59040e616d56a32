"""What onnxruntime makes of a graph."""

from pathlib import Path

import onnx
import onnxruntime


def kernels(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators of the graph that it runs on a CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node]

"""timm's own model as float and INT8 ONNX, to compare our files with."""

import importlib
import importlib.util
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import foreign_torchvision
import numpy as np

from vit_jax_tricks.export import proof


def functions(
    name: str, arrays: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, proof.Function]:
    """Returns `timm float`, by torch.onnx.export, and `timm INT8`, by quantize_static.

    Exports each by torch's default exporter, if onnxscript is installed, and by the
    older one, `torchscript`. Quantisation uses onnxruntime's defaults (QDQ, int8
    weights and activations, min-max ranges) and one step per channel, after the
    preprocessing that its documentation recommends.

    Args:
      name: in timm and here.
      arrays: the weights in timm's names.
      images: [b, h, w, c], normalised, to export and calibrate with.

    Raises:
      ImportError: torch or timm is not installed.
    """
    torch: Any = importlib.import_module("torch")
    foreign_torchvision.load(torch)
    model = importlib.import_module("timm").create_model(name).eval()
    state = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    learned = {parameter for parameter, _ in model.named_parameters()}
    assert not unexpected, unexpected
    assert not learned & set(missing), missing
    made = {}
    exporters = {"torchscript": _by_torchscript}
    if importlib.util.find_spec("onnxscript") is not None:
        exporters = {"default": _by_default} | exporters
    for exporter, options in exporters.items():
        with tempfile.TemporaryDirectory() as folder:
            plain, int8 = _files(torch, model, images, options(torch), folder)
        made |= {f"timm float, {exporter}": plain, f"timm INT8, {exporter}": int8}
    return {key: _channels_first(proof.onnx_function(f)) for key, f in made.items()}


def _by_default(torch: Any) -> dict[str, Any]:
    sizes = ({0: torch.export.Dim("batch")},)
    return {"dynamo": True, "dynamic_shapes": sizes, "external_data": False}


def _by_torchscript(torch: Any) -> dict[str, Any]:
    return {"dynamo": False, "dynamic_axes": {"images": {0: "batch"}}}


def _files(
    torch: Any, model: Any, images: np.ndarray, options: dict[str, Any], folder: str
) -> tuple[bytes, bytes]:
    """Writes the model in float and in INT8."""
    root = pathlib.Path(folder)
    plain, ready, int8 = (str(root / f"{n}.onnx") for n in ("float", "ready", "int8"))
    example = (torch.from_numpy(_nchw(images)),)
    named = {"input_names": ["images"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, example, plain, verbose=False, **named, **options)
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    prepare: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    logging.disable(logging.WARNING)  # one warning for each vector without channels
    prepare.quant_pre_process(plain, ready)
    quantization.quantize_static(ready, int8, _Reader(images), per_channel=True)
    logging.disable(logging.NOTSET)
    return pathlib.Path(plain).read_bytes(), pathlib.Path(int8).read_bytes()


class _Reader:
    """Calibration images for quantize_static, one batch."""

    def __init__(self, images: np.ndarray):
        self._batches = iter([{"images": _nchw(images)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _channels_first(function: proof.Function) -> proof.Function:
    """Wraps `function` for [b, c, h, w]; caches the transposed images."""
    last: list[Any] = [None, None]

    def run(images: Any) -> Any:
        if last[0] is not images:
            last[:] = images, _nchw(images)
        return function(last[1])

    return run


def _nchw(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

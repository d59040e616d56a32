"""Exports trained models for other programs: ONNX, INT8 ONNX and StableHLO.

ONNX needs the packages of `pip install 'vit_jax_tricks[export]'`, so each name is
imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vit_jax_tricks.export.installed import PACKAGES, not_installed


if TYPE_CHECKING:
    from vit_jax_tricks.export.exporting import export
    from vit_jax_tricks.export.int8 import to_onnx_int8
    from vit_jax_tricks.export.onnx_model import to_onnx
    from vit_jax_tricks.export.stablehlo import load, to_stablehlo
    from vit_jax_tricks.export.tensorrt import tensorrt_problems

_MODULES = {
    "export": "exporting",
    "load": "stablehlo",
    "tensorrt_problems": "tensorrt",
    "to_onnx": "onnx_model",
    "to_onnx_int8": "int8",
    "to_stablehlo": "stablehlo",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise not_installed(error.name) from error
    return getattr(module, name)


__all__ = [
    "export",
    "load",
    "tensorrt_problems",
    "to_onnx",
    "to_onnx_int8",
    "to_stablehlo",
]

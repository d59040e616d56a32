"""Reads PyTorch files by `torch.load(..., weights_only=True)` and nothing else.

That reader builds tensors and plain containers and rejects every other object, so a
file cannot run code.
"""

import argparse
import importlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import containers
from vit_jax_tricks.pretrained.weights import (
    FLOATS,
    Weights,
    check_size,
    first_line,
    refuse_type,
)


# Integers occur only in entries that no model reads.
NUMBERS = (*FLOATS, "bool", "uint8", "int8", "int16", "int32", "int64")

CHUNK = 1 << 20  # bytes read at once


def read(path: Path, ema: bool | None) -> Weights:
    """Reads the tensors of a file by name, unpacked from the usual containers.

    Raises:
      UserError: torch is missing, the file is damaged or holds other objects, or a
        tensor is not a plain array of numbers.
    """
    torch, loaded = load(path)
    chosen = containers.choose(
        path, loaded, ema, lambda value: isinstance(value, torch.Tensor)
    )
    for name, tensor in chosen.tensors.items():
        _check(torch, path, name, tensor)
    sizes = (t.numel() * t.element_size() for t in chosen.tensors.values())
    check_size(path, sum(sizes))
    arrays = {name: _array(torch, t) for name, t in chosen.tensors.items()}
    return Weights(str(path), arrays, averaged=chosen.averaged, notes=chosen.notes)


def load(path: Path) -> tuple[Any, Any]:
    """Returns torch and the content of a file: tensors and plain containers.

    Raises:
      UserError: torch is missing, or the file is damaged or holds other objects.
    """
    torch = _torch(path)
    try:
        # Training programs store their arguments beside the weights; a Namespace is a
        # plain record.
        allowed = torch.serialization.safe_globals([argparse.Namespace])
        _verify(path)
        with path.open("rb") as file, allowed:  # torch judges a path by its suffix
            return torch, torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(_why(torch, path, error)) from error


def torchscript(path: Path) -> str:
    """Message: why a TorchScript archive is not read, and how to convert it."""
    out = path.with_suffix(".safetensors")
    return (
        f"{path} is a TorchScript archive, which holds a program; it is not loaded "
        'here. If you trust it, convert it once: python -c "import torch; '
        "from safetensors.torch import save_file; "
        f"m = torch.jit.load('{path}', 'cpu'); save_file({{k: v.contiguous() for k, v "
        f"in m.state_dict().items()}}, '{out}')\""
    )


def _torch(path: Path) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, and reading it needs torch: "
            "pip install 'vit_jax_tricks[torch]'"
        ) from error


def _verify(path: Path) -> None:
    """Verifies the CRC-32 of all parts of an archive, which torch does not do.

    0 means no checksum, as after `torch.serialization.set_crc32_options(False)`.

    Raises:
      zipfile.BadZipFile: a checksum differs.
    """
    if not zipfile.is_zipfile(path):  # written before torch 1.6
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.CRC:
                with archive.open(info) as part:
                    while part.read(CHUNK):
                        pass


def _why(torch: Any, path: Path, error: Exception) -> str:
    try:
        odd = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        odd = sorted(set(odd) - {"argparse.Namespace"})
    except Exception:
        odd = []
    if odd or "weights_only" in str(error).lower():
        named = f" ({', '.join(odd[:3])})" if odd else ""
        return (
            f"{path} holds objects other than tensors{named}; they were not loaded. "
            "If you trust the file, save only its state dict and give that."
        )
    return (
        f"{path} is not a complete PyTorch file ({first_line(error)}); copy it again."
    )


def _check(torch: Any, path: Path, name: str, tensor: Any) -> None:
    """Raises UserError for a tensor that is not a plain array of numbers."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        refuse_type(str(path), name, f"a sparse tensor ({tensor.layout}) of {dtype}")
    if tensor.device.type != "cpu":
        refuse_type(str(path), name, f"no values (device {tensor.device}) of {dtype}")
    if tensor.is_nested:
        refuse_type(str(path), name, f"a nested tensor of {dtype}")
    if dtype not in NUMBERS:  # quantised types too
        refuse_type(str(path), name, dtype)


def _array(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()

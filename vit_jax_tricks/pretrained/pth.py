"""PyTorch's files, read by `torch.load(..., weights_only=True)` and nothing else.

That reader builds tensors and plain containers and refuses every other object, so a
file cannot run code.
"""

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError


AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
PLAIN = ("state_dict", "model", "model_state_dict")


def read(path: Path, ema: bool | None) -> dict[str, np.ndarray]:
    """The tensors of a file by name, taken out of the usual containers.

    Raises:
      UserError: torch is missing, or the file is damaged or holds other objects.
    """
    torch, loaded = load(path)
    tensors = _unpacked(path, loaded, ema)
    return {
        name: _array(torch, tensor)
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def load(path: Path) -> tuple[Any, Any]:
    """Torch, and what a file holds: tensors and plain containers.

    Raises:
      UserError: torch is missing, or the file is damaged or holds other objects.
    """
    torch = _torch(path)
    try:
        # Training programs keep their arguments beside the weights; a namespace is a
        # plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch, torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(_why(torch, path, error)) from error


def torchscript(path: Path) -> str:
    """Why a TorchScript archive is not read, and what to type instead."""
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
            "Where you trust the file, save its state dict alone and give that."
        )
    why = str(error).partition("\n")[0] or type(error).__name__
    return f"{path} is not a complete PyTorch file ({why}); copy it again."


def _unpacked(path: Path, loaded: Any, ema: bool | None) -> Mapping[str, Any]:
    """The state dict inside the containers that training programs wrap around it."""
    averaged = False
    for _ in range(4):  # a file may also hold itself
        if not isinstance(loaded, Mapping):
            break
        found = [k for k in (*AVERAGED, *PLAIN) if isinstance(loaded.get(k), Mapping)]
        if ema is False:
            found = [k for k in found if k in PLAIN]
        if not found:
            break
        averaged |= found[0] in AVERAGED
        loaded = loaded[found[0]]
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path} holds a {type(loaded).__name__}, not tensors by name; save a "
            "state dict and give that."
        )
    if ema and not averaged:
        raise UserError(
            f"ema=True: {path} holds no averaged weights; leave ema out to load it."
        )
    return {str(k): v for k, v in loaded.items()}


def _array(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()

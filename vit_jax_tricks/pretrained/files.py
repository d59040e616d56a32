"""Weight files as flat dictionaries of NumPy arrays."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file by name.

    Raises:
        UserError: no such file, another kind of file, or a damaged one.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a weight file.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete .safetensors file ({error}); copy it again."
        ) from error


def write_weights(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as a `.safetensors` file, moved into place when complete."""
    path = Path(path)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial)
    partial.replace(path)


def _check_suffix(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} has the ending {path.suffix or '(none)'}; expected .safetensors."
        )

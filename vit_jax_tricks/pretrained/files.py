"""Reads weight files as flat dictionaries of NumPy arrays, and rejects all other files.

Nothing here executes a file's content: `.npz` files are read without pickle, PyTorch
files only by `torch.load(..., weights_only=True)`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import containers, kinds, npz, pth, safetensors_file
from vit_jax_tricks.pretrained.weights import Weights, unwrapped


KNOWN = "a .safetensors, .npz, .pth, .pth.tar or .pt file"


def read_weights(path: str | Path, *, ema: bool | None = None) -> Weights:
    """Reads the named arrays of a safetensors, NumPy or PyTorch file, or of its shards.

    The kind of a file is determined by its structure, whatever its suffix.

    Args:
      path: the file, or the `.index.json` of its shards.
      ema: the averaged weights of the file (True), the plain ones (False), or the
        averaged ones if there are any (None).

    Raises:
      UserError: no such file, or a file that is damaged, of another kind, or holds more
        than arrays.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a weight file.")
        if not path.is_file():
            raise UserError(f"{path} does not exist; give the path of a weight file.")
        found = kinds.kind(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    _refuse_unless_weights(path, found)
    if found == kinds.PTH:
        weights = pth.read(path, ema)
    elif found == kinds.SHARDED:
        weights = _chosen(path, _of_shards(path), ema)
    elif found == kinds.NPZ:
        weights = _chosen(path, npz.read(path), ema)
    else:
        weights = _chosen(path, safetensors_file.read(path), ema)
        weights = weights.replace(grid=safetensors_file.grid(path))
    return weights.replace(arrays=unwrapped(weights.arrays))


def write_weights(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    *,
    grid: tuple[int, int] | None = None,
) -> None:
    """Writes arrays as a `.safetensors` file, moved into place when complete."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} has the ending {path.suffix or '(none)'}; expected .safetensors."
        )
    safetensors_file.write(path, arrays, grid)


def _refuse_unless_weights(path: Path, found: str) -> None:
    """Raises UserError for files that hold no weights, or none that can be read."""
    if found in kinds.READ:
        return
    if found == kinds.TORCHSCRIPT:
        raise UserError(pth.torchscript(path))
    ending = next((end for end in kinds.ENDINGS if path.name.endswith(end)), None)
    expected = "a weight file" if ending is None else kinds.ENDINGS[ending]
    if found in (kinds.EMPTY, kinds.UNKNOWN, kinds.CUT):
        expected = expected.split(maxsplit=1)[1]
        raise UserError(
            f"{path} is not a complete {expected} ({found}); copy it again."
        )
    raise UserError(f"{path} is {found}, not {expected}; give {KNOWN}.")


def _chosen(path: Path, arrays: dict[str, np.ndarray], ema: bool | None) -> Weights:
    """The arrays, or the averages among them, which their names mark (`ema.`)."""
    if not arrays:
        raise UserError(f"{path} holds no arrays; give a weight file.")
    chosen = containers.choose(path, arrays, ema, lambda x: isinstance(x, np.ndarray))
    return Weights(
        str(path), chosen.tensors, averaged=chosen.averaged, notes=chosen.notes
    )


def _of_shards(path: Path) -> dict[str, np.ndarray]:
    files = safetensors_file.shards(path)
    arrays: dict[str, np.ndarray] = {}
    for shard in sorted(set(files.values())):
        if kinds.kind(shard) != kinds.SAFETENSORS:
            raise UserError(
                f"{shard}, a shard of {path}, is not a sound .safetensors file; copy "
                "it again, or give the weights as one file."
            )
        arrays |= safetensors_file.read(shard)
    for name, shard in files.items():
        if name not in arrays:
            raise UserError(f"{shard} lacks {name}, which {path} places there.")
    return arrays

"""Weight files as flat dictionaries of NumPy arrays; what is no weight file, refused.

Nothing here runs what a file says: `.npz` are read without pickle, PyTorch's files only
by `torch.load(..., weights_only=True)`.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import npz, pth
from vit_jax_tricks.pretrained.weights import Weights, unwrapped


SAFETENSORS, NPZ, PTH = "a .safetensors file", "a NumPy archive", "a PyTorch file"
TORCHSCRIPT = "a TorchScript archive"
EMPTY, UNKNOWN, CUT = "it is empty", "its start is unknown", "its archive is cut short"
ENDINGS = {
    ".safetensors": SAFETENSORS,
    ".npz": NPZ,
    ".pth": PTH,
    ".pth.tar": PTH,
    ".pt": PTH,
}
STARTS = {
    b"\x80": "a pickle",
    b"\x93NUMPY": "a single NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer",
    b"<": "a web page",
    b"\x1f\x8b": "a gzip archive",
}


def read_weights(path: str | Path, *, ema: bool | None = None) -> Weights:
    """The arrays of a `.safetensors`, `.npz`, `.pth`, `.pth.tar` or `.pt` file by name.

    Args:
      path: of the file.
      ema: the averaged weights of a PyTorch file (True), the plain ones (False), or
        the averaged ones where they are (None).

    Raises:
      UserError: no such file, another kind of file than its ending says, a damaged
        one, or one that holds more than arrays.
    """
    path = Path(path)
    expected = _expected(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of a weight file.")
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a weight file.")
    try:
        found = kind(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if found == TORCHSCRIPT and expected == PTH:
        raise UserError(pth.torchscript(path))
    if found in (EMPTY, UNKNOWN, CUT):
        raise UserError(
            f"{path} is not a complete {expected.split(maxsplit=1)[1]} ({found}); "
            "copy it again."
        )
    fits = {PTH: (PTH, STARTS[b"\x80"])}.get(expected, (expected,))
    if found not in fits:
        endings = [end for end, name in ENDINGS.items() if name == found]
        what = f"name it *{endings[0]}" if endings else "give a weight file"
        raise UserError(f"{path} is {found}, not {expected}; {what}.")
    if ema and expected != PTH:
        raise UserError(
            f"ema=True: {path} holds one set of weights; leave ema out to load it."
        )
    readers: dict[str, Callable[[], Mapping[str, np.ndarray]]] = {
        SAFETENSORS: lambda: _read_safetensors(path),
        NPZ: lambda: npz.read(path),
        PTH: lambda: pth.read(path, ema),
    }
    arrays = unwrapped(readers[expected]())
    if not arrays:
        raise UserError(f"{path} holds no arrays; give a weight file.")
    return Weights(str(path), arrays)


def write_weights(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a `.safetensors` file, moved into place when complete."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} has the ending {path.suffix or '(none)'}; expected .safetensors."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial)
    partial.replace(path)


def kind(path: Path) -> str:
    """What a file is, by its first bytes and the names in its archive."""
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        return EMPTY
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    for start, name in STARTS.items():
        if head.startswith(start):
            return name
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 2**32:
        return SAFETENSORS
    return UNKNOWN


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return CUT
    if any(name.endswith("constants.pkl") for name in names):
        return TORCHSCRIPT
    if any(name.endswith("data.pkl") for name in names):
        return PTH
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    return "a zip archive of something else"


def _expected(path: Path) -> str:
    for ending, name in ENDINGS.items():
        if path.name.endswith(ending):
            return name
    *most, last = ENDINGS
    raise UserError(
        f"{path} has the ending {path.suffix or '(none)'}; expected "
        f"{', '.join(most)} or {last}."
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a complete .safetensors file "
            f"({str(error).partition(chr(10))[0]}); copy it again."
        ) from error

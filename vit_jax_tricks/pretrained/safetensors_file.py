"""Reads and writes `.safetensors` files, single or as the shards of an index."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.weights import first_line, refuse_type


# Types by the format's names; integers occur only in entries that no model reads.
READ = {
    *("F16", "BF16", "F32", "F64"),
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
}
LARGEST_INDEX = 64_000_000  # bytes
GRID = "vit_jax_tricks.grid"  # the key of the patch grid in the metadata


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file by name.

    Raises:
      UserError: a damaged file, or values that are not plain numbers.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            types = {name: file.get_slice(name).get_dtype() for name in names}
        for name, dtype in types.items():
            if dtype not in READ:
                refuse_type(str(path), name, dtype)
        return load_file(path)
    except UserError:
        raise
    except Exception as error:  # the header can be any bytes
        raise UserError(
            f"{path} is not a complete .safetensors file ({first_line(error)}); copy "
            "it again."
        ) from error


def grid(path: Path) -> tuple[int, int] | None:
    """Rows and columns of patches, if `write` recorded them in a sound file."""
    with safe_open(path, framework="np") as file:
        text = (file.metadata() or {}).get(GRID, "")
    sides = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    return None if sides is None else (int(sides[1]), int(sides[2]))


def shards(path: Path) -> dict[str, Path]:
    """The file of each array named in an index (`model.safetensors.index.json`).

    Raises:
      UserError: an unreadable index, or a shard that is elsewhere or missing.
    """
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError("it is too large for an index")
        files = json.loads(path.read_text())["weight_map"]
        shards = {str(name): str(file) for name, file in files.items()}
    except Exception as error:  # the file can be any bytes
        raise UserError(
            f"{path} is not a complete index of shards ({first_line(error)}); copy it "
            "again."
        ) from error
    for file in sorted(set(shards.values())):
        if not re.fullmatch(r"\w[\w.+-]*", file):
            raise UserError(
                f"{path} names the shard {file!r}; the shards must lie beside it."
            )
        if not (path.parent / file).is_file():
            raise UserError(f"{path} names {file}, which is missing beside it.")
    return {name: path.parent / file for name, file in shards.items()}


def write(
    path: Path, arrays: Mapping[str, np.ndarray], grid: tuple[int, int] | None = None
) -> None:
    """Writes arrays, and a patch grid, to a file moved into place when complete.

    Raises:
      UserError: the file cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        metadata = None if grid is None else {GRID: f"{grid[0]}x{grid[1]}"}
        save_file(whole, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({first_line(error)}).") from error

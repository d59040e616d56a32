"""`.npz` files, read without pickle."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax_tricks.errors import UserError


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; two-byte raw ones are bfloat16.

    Raises:
      UserError: a damaged archive, or one that holds more than numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds pickled objects, which are never loaded; save it again "
                "with arrays of numbers only."
            ) from error
        raise UserError(
            f"{path} is not a complete .npz file "
            f"({str(error).partition(chr(10))[0]}); copy it again."
        ) from error
    return {name: _numbers(path, name, array) for name, array in arrays.items()}


def _numbers(path: Path, name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):  # NumPy gives other files as bytes
        raise UserError(
            f"{path} is not a complete .npz file ({name} is no array); copy it again."
        )
    if array.dtype == np.dtype("V2"):  # how NumPy stores what it has no name for
        return array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: {name} holds {array.dtype}, not numbers; give a weight file."
        )
    return array

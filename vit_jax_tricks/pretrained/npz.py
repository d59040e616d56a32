"""Reads `.npz` files without pickle."""

import math
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.weights import check_size, first_line, refuse_type


BFLOAT16 = np.dtype("V2")  # how NumPy stores bfloat16, which it has no name for
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an archive by name; raw two-byte arrays are bfloat16.

    Every header is read before the first value, so that a small file that claims a huge
    array is rejected before memory is allocated.

    Raises:
      UserError: a damaged archive, or one that holds more than numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            check_size(path, sum(info.file_size for info in infos))
            for info in infos:
                with archive.open(info) as file:
                    _check(path, info, file)
            arrays = {}
            for info in infos:
                with archive.open(info) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                    _end(file)
                arrays[_name(info)] = array
    except UserError:
        raise
    except Exception as error:  # the file can be any bytes
        raise UserError(
            f"{path} is not a complete .npz file ({first_line(error)}); copy it again."
        ) from error
    return {
        name: array.view(ml_dtypes.bfloat16) if array.dtype == BFLOAT16 else array
        for name, array in arrays.items()
    }


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _check(path: Path, info: zipfile.ZipInfo, file: Any) -> None:
    """Raises UserError or ValueError unless an entry is an array of numbers."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"{_name(info)} has the unknown version {version}")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise UserError(
            f"{path} holds pickled objects, which are never loaded; save it again "
            "with arrays of numbers only."
        )
    numbers = dtype.kind in "fiub" and dtype.itemsize <= 8
    if not numbers and dtype != BFLOAT16:
        refuse_type(str(path), _name(info), dtype)
    if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
        raise ValueError(
            f"{_name(info)} claims the shape {shape}, which is not its {info.file_size}"
            " bytes"
        )


def _end(file: Any) -> None:
    """Reads to the end, where the checksum is verified."""
    while file.read(1 << 20):
        pass

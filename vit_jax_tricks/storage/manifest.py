"""Files of a checkpoint and their checksums.

Only files named in the manifest count: a system may leave others beside them, such as
`.DS_Store`, `Thumbs.db` or `.nfs0001`.
"""

import json
import os
import zlib
from pathlib import Path


MANIFEST = "manifest.json"


class DamagedError(Exception):
    """A checkpoint whose bytes differ from those written."""


class UnfinishedError(DamagedError):
    """A checkpoint whose process died before its manifest was written."""


def step_folders(directory: Path) -> dict[int, Path]:
    """Folders of a run's checkpoints by step, in order, sound or not."""
    try:
        with os.scandir(directory) as entries:
            names = [e.name for e in entries if e.is_dir() and _is_step(e.name)]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {int(name): directory / name for name in sorted(names, key=int)}


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def write_manifest(directory: Path) -> None:
    """Writes the CRC-32 of every file of a checkpoint, atomically."""
    files = [p for p in sorted(directory.rglob("*")) if p.is_file()]
    names = [p.relative_to(directory).as_posix() for p in files]
    crcs = {name: _crc(directory / name) for name in names if name != MANIFEST}
    write_durably(directory / MANIFEST, json.dumps(crcs))


def verify_files(directory: Path) -> None:
    """Raises DamagedError unless every file matches the manifest."""
    try:
        expected = json.loads((directory / MANIFEST).read_text())
    except FileNotFoundError:
        raise UnfinishedError("not completely written") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"its manifest is unreadable: {error}") from None
    if not isinstance(expected, dict) or not expected:
        raise DamagedError("its manifest is unreadable: no names of files")
    for name, crc in expected.items():
        try:
            if _crc(directory / name) != crc:
                raise DamagedError(f"checksum of {name} differs")
        except OSError as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else error
            raise DamagedError(f"{name} {why}") from None


def write_durably(path: Path, text: str) -> None:
    """Writes a file that is either complete and on disk, or absent."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        part.replace(path)
    except OSError:  # a folder is there
        part.unlink()
        raise


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())

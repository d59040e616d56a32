"""Writes label packs file by file; a killed command resumes at the next file."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from vit_jax_tricks.data.label_pack.manifest import (
    BEGUN,
    FINISHED,
    Manifest,
    PackSpec,
    labels_crc,
)
from vit_jax_tricks.data.label_pack.pack import digest
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.storage.lock import NAME as LOCK
from vit_jax_tricks.storage.lock import locked
from vit_jax_tricks.typing import Shaped


OPTIONS = "group_size:1,zstd:3"
Records = Callable[[range], Iterable[Shaped[np.ndarray, "b"]]]


def write_pack(path: Path, spec: PackSpec, records: Records) -> bool:
    """Writes the missing parts of a pack; returns False if nothing was missing.

    Args:
      path: the folder; new, empty, or begun or finished with the same spec.
      spec: the description of the pack.
      records: gives the records of a range of examples, in order, in pieces.

    Raises:
      UserError: the folder holds something else, or cannot be written.
    """
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path, "give another folder"):
        done = finished(path, spec)
        if (path / FINISHED).exists():
            return False
        with _writing(path):
            done.save(path / BEGUN)
        for shard in range(len(done.files), spec.shards):
            file = path / spec.file(shard)
            labels = _write_file(file, records(spec.examples(shard)))
            with _writing(path):
                entry = (file.stat().st_size, digest(file))
                done = dataclasses.replace(
                    done,
                    labels=labels_crc(labels, done.labels),
                    files=(*done.files, entry),
                )
                done.save(path / BEGUN)
        with _writing(path):
            (path / BEGUN).replace(path / FINISHED)
    return True


def finished(path: Path, spec: PackSpec) -> Manifest:
    """Manifest of the parts that already exist.

    Raises:
      UserError: the folder holds something else.
    """
    for name in (FINISHED, BEGUN):
        if (path / name).exists():
            found = Manifest.load(path / name)
            _same(path, found.spec, spec)
            return found
    held = path.iterdir() if path.is_dir() else ()
    if path.is_file() or any(not _begun(entry.name) for entry in held):
        raise UserError(
            Argument("out"),
            f"={path} holds something else; give a new or an empty folder.",
        )
    return Manifest(spec)


def _begun(name: str) -> bool:
    return name == LOCK or name.endswith(".part")


def _same(path: Path, there: PackSpec, here: PackSpec) -> None:
    for field in dataclasses.fields(PackSpec):
        old, new = (json.dumps(getattr(spec, field.name)) for spec in (there, here))
        if old != new:
            raise UserError(
                Argument("out"),
                f"={path} holds labels with another {field.name} ({old}, now {new}); "
                "run the command that began it, or give another folder.",
            )


def _write_file(
    file: Path, pieces: Iterable[Shaped[np.ndarray, "b"]]
) -> Shaped[np.ndarray, "n"]:
    """Writes one file of records atomically; returns their labels."""
    from array_record.python.array_record_module import ArrayRecordWriter

    part = file.with_name(f".{file.name}.part")
    with _writing(file.parent):
        writer = ArrayRecordWriter(str(part), OPTIONS)
    labels = []
    for piece in pieces:
        with _writing(file.parent):
            for record in piece:
                writer.write(record.tobytes())
        labels.append(piece["label"])
    with _writing(file.parent):
        writer.close()
        part.replace(file)
    return np.concatenate(labels).astype(np.int32)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns errors of the file system into a one-line UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's writer
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            Argument("out"),
            f"={path} cannot be written ({why}); complete files are kept. Free some "
            "space, then run the same command again.",
        ) from error

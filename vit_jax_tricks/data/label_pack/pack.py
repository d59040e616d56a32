"""Opens a label pack, checks every byte of it and reads its records."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.folder import FileRecords
from vit_jax_tricks.data.label_pack.code import record_dtype
from vit_jax_tricks.data.label_pack.manifest import (
    BEGUN,
    FINISHED,
    Manifest,
    PackSpec,
    labels_crc,
    names_crc,
)
from vit_jax_tricks.data.memory import IN_MEMORY_BYTES
from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Int, Shaped


SAMPLE = 2048  # examples whose labels are compared if reading all would take long
REMAKE = "make it again with python -m vit_jax_tricks.relabel."
Read = Callable[[Int[np.ndarray, "b"]], Shaped[np.ndarray, "b"]]


@dataclasses.dataclass(frozen=True)
class LabelPack:
    """An opened pack; `spec` describes its content."""

    path: Path
    spec: PackSpec
    _labels: int
    _read: Read = dataclasses.field(repr=False)

    @staticmethod
    def open(path: str | os.PathLike, *, in_memory: bool | None = None) -> "LabelPack":
        """Checks a pack and opens it.

        Every byte is read once and its SHA-256 compared, at about one second per
        gigabyte and core if the disk is fast enough. A pack below 1 GiB is then kept in
        memory, as is any pack with `in_memory=True`; others are read record by record.

        Raises:
          UserError: there is no pack, or it is unfinished, damaged or of another
            version.
        """
        path = paths.utf8(paths.absolute(path))
        if not (path / FINISHED).is_file():
            raise UserError(_missing(path))
        manifest = Manifest.load(path / FINISHED)
        spec = manifest.spec
        if len(manifest.files) != spec.shards:
            raise UserError(f"{path / FINISHED} lacks files; {REMAKE}")
        files = [path / spec.file(shard) for shard in range(spec.shards)]
        _verify(files, manifest)
        dtype = record_dtype(spec.grid, spec.top)
        if in_memory is None:
            in_memory = spec.count * dtype.itemsize < IN_MEMORY_BYTES
        read = _reader(files, dtype)
        if in_memory:
            read = _resident(read, spec, dtype).__getitem__
        return LabelPack(path, spec, manifest.labels, read)

    @property
    def num_classes(self) -> int:
        return len(self.spec.class_names)

    @property
    def checksum(self) -> str:
        """SHA-256 of the header, which includes those of all files."""
        return digest(self.path / FINISHED)

    def rows(
        self,
        index: Int[np.ndarray, "b"],
        labels: Int[np.ndarray, "b"] | None = None,
    ) -> dict[str, np.ndarray]:
        """The stored labels of some examples; `decode` converts them to floats.

        Args:
          index: positions in the whole training split, as given by `Data.example_ids`.
          labels: the examples' own labels, which must equal those that the teacher saw.

        Returns:
          `token_scores` uint8 [b, p, q, t] with `token_range` float32 [b, 2],
            `token_classes` uint16 [b, p, q, t], `class_scores` float32 [b, t] and
            `class_classes` uint16 [b, t], largest scores first.

        Raises:
          UserError: an example that the pack does not have, or a different label.
        """
        outside = (index < 0) | (index >= self.spec.count)
        if outside.any():
            raise UserError(
                f"{self.path} holds {self.spec.count} examples, but example "
                f"{index[outside][0]} is needed; {REMAKE}"
            )
        found = self._read(index)
        if labels is not None and (odd := found["label"] != labels).any():
            example, here, there = (x[odd][0] for x in (index, labels, found["label"]))
            raise UserError(
                f"{self.path}: example {example} is of class {there} there but of "
                f"class {here} in the data, so the pack was made for other data or "
                f"another order; {REMAKE}"
            )
        names = [name for name in found.dtype.names or () if name != "label"]
        return {name: np.ascontiguousarray(found[name]) for name in names}

    def check(self, data: Data, *, num_classes: int) -> None:
        """Raises UserError unless the pack was made for this data and these classes.

        Compares the number of examples, the class names, the file names and the labels:
        all labels for a folder, otherwise 2,048 evenly spaced ones; `rows` compares the
        rest as they are used.
        """
        records, spec = data.whole_train, self.spec
        made = f"{self.path} was made for {spec.data['name']}"
        if not num_classes == data.num_classes == self.num_classes:
            raise UserError(
                f"{self.path} has labels of {self.num_classes} classes, {data.name} "
                f"has {data.num_classes} and the model {num_classes}; give the data "
                "and the model that the pack was made for."
            )
        for theirs, ours in zip(data.class_names, spec.class_names, strict=False):
            if theirs != ours:
                raise UserError(
                    f'{made}, whose class "{ours}" is "{theirs}" in {data.name}; give '
                    f"the same data, or {REMAKE}"
                )
        if len(records) != spec.count:
            raise UserError(
                f"{made} with {spec.count} training examples, but {data.name} has "
                f"{len(records)}; give the same data and split, or {REMAKE}"
            )
        if isinstance(records, FileRecords):
            same = spec.files in (None, names_crc(records))
            if not same or labels_crc(records.labels) != self._labels:
                raise UserError(
                    f"{made}, but the files of {data.name} have other names; give the "
                    f"same data, or {REMAKE}"
                )
            return
        count = min(SAMPLE, spec.count)
        places = np.linspace(0, spec.count - 1, count).astype(np.int64)
        labels = np.array([records[int(place)][1] for place in places], np.int32)
        self.rows(places, labels)


def _missing(path: Path) -> str:
    if (path / BEGUN).is_file():
        return (
            f"{path} is an unfinished label pack; run the command that began it again "
            "to finish it."
        )
    what = "is not a label pack" if path.exists() else "does not exist"
    return (
        f"{path} {what}; make one with python -m vit_jax_tricks.relabel "
        f"--teacher=WORKDIR --data=SPEC --out={path}."
    )


def _verify(files: list[Path], manifest: Manifest) -> None:
    """Checks the sizes of all files first, then their contents."""
    for file, (size, _) in zip(files, manifest.files, strict=True):
        if not file.is_file() or file.stat().st_size != size:
            why = "is missing" if not file.is_file() else "has another size"
            raise UserError(f"{file} {why}; put a copy back, or {REMAKE}")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(digest, files)
        watched = progress(digests, len(files), "checking the label pack")
        for file, found, (_, kept) in zip(files, watched, manifest.files, strict=True):
            if found != kept:
                raise UserError(
                    f"{file} is damaged: its checksum differs; put a copy back, or "
                    f"{REMAKE}"
                )


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _reader(files: list[Path], dtype: np.dtype) -> Read:
    """A function that reads records by position."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource([str(file) for file in files])

    def read(index: Int[np.ndarray, "b"]) -> Shaped[np.ndarray, "b"]:
        try:
            records = source.__getitems__(index.tolist())
            if {len(record) for record in records} - {dtype.itemsize}:
                raise ValueError("records of another size than its header says")
        except Exception as error:  # array_record raises RuntimeError and others
            why = str(error).partition("\n")[0] or "cut short"
            raise UserError(
                f"{files[0].parent} is damaged ({why}); {REMAKE}"
            ) from error
        return np.frombuffer(b"".join(records), dtype)

    return read


def _resident(read: Read, spec: PackSpec, dtype: np.dtype) -> Shaped[np.ndarray, "n"]:
    records = np.empty(spec.count, dtype)
    for shard in range(spec.shards):
        part = spec.examples(shard)
        records[part.start : part.stop] = read(np.arange(part.start, part.stop))
    return records

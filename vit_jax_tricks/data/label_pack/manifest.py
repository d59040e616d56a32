"""Header of a label pack: its contents, its teacher, and the data it was made for."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from vit_jax_tricks.data.folder import FileRecords
from vit_jax_tricks.data.source import Records
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Int


FORMAT = "vit_jax_tricks label pack"
VERSION = 1
LARGEST = 2**26  # most scores of one example
FINISHED, BEGUN = "pack.json", "begun.json"  # file names of the header


@dataclasses.dataclass(frozen=True)
class PackSpec:
    """Description of a pack, known before its first record.

    Attributes:
      teacher: its name, the source and checksum of its weights, and how it gives token
        logits.
      preprocessing: size, crop, resampling, mean and std of the teacher's pictures.
      data: name and keys of the data, as typed.
      class_names: of the data, in the order of the class ids.
      files: CRC-32 of the names of the pictures, if they are files.
      count: examples in the training split, one record each.
      grid: rows and columns of cells.
      top: number of scores kept for each cell, and for the image.
      rest: the score of the classes that are not kept: "mean" if scores are shifted so
        that 0 is the mean of the others (the log of their mean exponential), "zero" if
        0 stands for them as in the official label maps, "none" if every class is kept.
      shard_size: records in each file but the last.
    """

    teacher: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    data: Mapping[str, Any]
    class_names: Sequence[str]
    files: int | None
    count: int
    grid: tuple[int, int]
    top: int
    rest: str
    shard_size: int

    def __post_init__(self):
        """Raises ValueError for impossible numbers, before anything is allocated."""
        rows, columns = self.grid
        for name, value, most in (
            ("count", self.count, 2**40),
            ("shard_size", self.shard_size, 2**40),
            ("top", self.top, 2**16),
            ("grid", rows, 2**10),
            ("grid", columns, 2**10),
        ):
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}; expected 1 to {most}")
        if self.top * rows * columns > LARGEST:
            raise ValueError(f"more than {LARGEST} scores for an example")

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    def file(self, shard: int) -> str:
        """Name of a file of records."""
        return f"labels.array_record-{shard:05}-of-{self.shards:05}"

    def examples(self, shard: int) -> range:
        """Range of the examples in a file."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))


Spec = PackSpec  # its name in version 0.1.0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A spec with the completed files: size and SHA-256 of each, in order.

    `labels` is the CRC-32 of their examples' labels in order, as little-endian uint16.
    """

    spec: PackSpec
    labels: int = 0
    files: tuple[tuple[int, str], ...] = ()

    @property
    def examples(self) -> int:
        """Number of examples written."""
        return min(len(self.files) * self.spec.shard_size, self.spec.count)

    def save(self, path: Path) -> None:
        """Writes the header atomically."""
        content = self._content()
        content["checksum"] = _checksum(content)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(path)

    def _content(self) -> dict[str, Any]:
        head = {"format": FORMAT, "version": VERSION}
        return json.loads(json.dumps(head | dataclasses.asdict(self)))

    @staticmethod
    def load(path: Path) -> "Manifest":
        """Reads a header.

        Raises:
          UserError: it is damaged, or of another version.
        """
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != FORMAT:
                raise ValueError("not a label pack's")
            version = content.pop("version")
            if version != VERSION:
                raise UserError(
                    f"{path.parent} is a label pack of version {version}; {VERSION} is "
                    "expected. Make it again with python -m vit_jax_tricks.relabel."
                )
            checksum = content.pop("checksum")
            spec = content["spec"]
            spec["grid"] = tuple(spec["grid"])
            files = tuple((size, digest) for size, digest in content["files"])
            found = Manifest(PackSpec(**spec), content["labels"], files)
            if _checksum(found._content()) != checksum:
                raise ValueError("its checksum differs")
        except UserError:
            raise
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise UserError(
                f"{path} is damaged ({error}); restore a copy, or make the pack again "
                "with python -m vit_jax_tricks.relabel."
            ) from error
        return found


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def labels_crc(labels: Int[np.ndarray, "n"], before: int = 0) -> int:
    """CRC-32 of labels, continuing from `before`."""
    return zlib.crc32(labels.astype("<u2").tobytes(), before)


def names_crc(records: Records) -> int | None:
    """CRC-32 of the file names without suffixes; None if there are no files.

    The files of a class are sorted by name, so their labels alone would not reveal a
    renamed file.
    """
    if not isinstance(records, FileRecords):
        return None
    names = (PurePath(path).with_suffix("").as_posix() for path in records.paths)
    return zlib.crc32("\n".join(names).encode(errors="surrogateescape"))

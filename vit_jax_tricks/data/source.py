"""Interface of data sources: two splits of encoded pictures with labels."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Int


@runtime_checkable
class Records(Protocol):
    """Random access to one split; picklable, for Grain's worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """The encoded picture and its label."""
        ...


@dataclasses.dataclass(frozen=True)
class Source:
    """A data source; `size` is every picture's (height, width), None if they differ."""

    class_names: Sequence[str]
    channels: int
    size: tuple[int, int] | None
    train: Records
    test: Records
    split_given: bool = True  # False if the split was made here


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a split, renumbered."""

    records: Records
    rows: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self.records[int(self.rows[index])]


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """One split of a TFDS data source that keeps pictures encoded."""

    data: Sequence
    image_key: str
    label_key: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            record = self.data[index]
            return record[self.image_key], int(record[self.label_key])
        except Exception as error:  # each layer of readers has its own errors
            raise UserError(str(error).partition("\n")[0]) from error

    def name(self, index: int) -> str:
        """Name of the record, for messages."""
        info = getattr(self.data, "dataset_info", None)
        return f"record {index} of {getattr(info, 'full_name', 'the data set')}"


@contextlib.contextmanager
def reading(records: Records, index: int) -> Iterator[None]:
    """Turns a record's read error into a one-line UserError with the record's name."""
    try:
        yield
    except (UserError, OSError) as error:
        while isinstance(records, Subset):
            records, index = records.records, int(records.rows[index])
        name = getattr(records, "name", lambda place: f"record {place}")(index)
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{name} cannot be read ({why}). Restore a sound copy, then start the same "
            "command again."
        ) from error

"""What every data source gives: two splits of encoded pictures with labels."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

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
    """`size` is the (height, width) that every picture has, or None if they differ."""

    class_names: Sequence[str]
    channels: int
    size: tuple[int, int] | None
    train: Records
    test: Records
    split_given: bool = True  # False where we split the data ourselves


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
        record = self.data[index]
        return record[self.image_key], int(record[self.label_key])

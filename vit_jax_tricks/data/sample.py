"""Draws a sample of a split over all of its classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_tricks.data.source import Records, Subset
from vit_jax_tricks.typing import Int


MOST_READ = 2**16  # most records read to find every class, if labels must be read


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some examples of a split; `str` says how they were chosen.

    Attributes:
      rows: their positions in the split, in random order.
      labels: their classes.
      split: "test" or "train".
      total: number of examples in the split.
      asked: the number requested; `rows` has fewer if the split is smaller.
      num_classes: number of classes of the data set.
      seed: seed of the draw.
    """

    rows: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    split: str
    total: int
    asked: int
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> int:
        """Number of classes with an example in the sample."""
        return len(np.unique(self.labels))

    def __str__(self) -> str:
        if len(self) == self.total:
            more = f" ({self.asked:,} were asked for)" * (self.asked > self.total)
            return f"all {self.total:,} {self.split} images{more}"
        every = self.classes == self.num_classes
        which = f"all {self.num_classes:,}" if every else f"{self.classes:,} of the "
        which += "" if every else f"{self.num_classes:,}"
        return (
            f"{len(self):,} images of {self.total:,} in {self.split}, sampled over "
            f"{which} classes, seed {self.seed}"
        )

    def facts(self) -> dict[str, Any]:
        """The same information for a report."""
        return {
            "images": len(self),
            "split": self.split,
            "images_in_split": self.total,
            "classes": self.classes,
            "seed": self.seed,
        }


def draw(
    labels: Sequence[int] | Int[np.ndarray, "n"],
    count: int,
    *,
    num_classes: int,
    seed: int = 0,
    split: str = "test",
) -> Sample:
    """Draws `count` examples at random, each class in proportion to its size.

    Shares are rounded by Sainte-Laguë's method, and every class has at least one
    example if `count` allows it. The draw depends only on the labels and the seed.

    Args:
      labels: labels of the split. An array costs nothing; of another sequence, only as
        many are read as needed to fill the sample and find every class.
      count: number of examples, at least 1; all of them if there are fewer.
      num_classes: number of classes of the data set.
      seed: seed of the draw.
      split: name of the split.
    """
    total = len(labels)
    order = np.random.default_rng(seed).permutation(total)
    if isinstance(labels, np.ndarray):
        found = labels[order]
    else:
        found = _read(labels, order, count, num_classes)
        order = order[: len(found)]
    chosen = _proportional(found, count)
    return Sample(
        rows=order[chosen],
        labels=found[chosen],
        split=split,
        total=total,
        asked=count,
        num_classes=num_classes,
        seed=seed,
    )


def labels_of(records: Records) -> Sequence[int] | Int[np.ndarray, "n"]:
    """Labels of a split: an array if known, otherwise read one by one."""
    if isinstance(records, Subset):
        whole = labels_of(records.records)
        if isinstance(whole, np.ndarray):
            return whole[records.rows]
        return _Labels(records)
    known = getattr(records, "labels", None)
    return _Labels(records) if known is None else np.asarray(known)


class _Labels(Sequence):
    """Labels that are read with their records, without decoding pictures."""

    def __init__(self, records: Records):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[int(index)][1]


def _read(
    labels: Sequence[int], order: Int[np.ndarray, "n"], count: int, num_classes: int
) -> Int[np.ndarray, "m"]:
    """The first labels in `order`: `count` of them, then on until all classes occur."""
    found: list[int] = []
    seen: set[int] = set()
    for place in order[: max(count, MOST_READ)]:
        met = count < num_classes or len(seen) == num_classes
        if len(found) >= count and met:
            break
        found.append(labels[place])
        seen.add(found[-1])
    return np.asarray(found)


def _proportional(labels: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "m"]:
    """Positions of `count` labels, in order."""
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if count < len(sizes):
        return np.arange(count)
    by_class = np.argsort(group, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = np.where(rank == 0, -1.0, (rank + 0.5) / sizes[group])
    return np.sort(np.argsort(share, kind="stable")[:count])

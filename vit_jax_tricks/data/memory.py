"""Small data sets as one uint8 array: a batch is a single vectorised gather."""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vit_jax_tricks.data.prefetch import Batch
from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.data.repeated import repeated_places
from vit_jax_tricks.data.source import Records, reading
from vit_jax_tricks.data.views import Seen
from vit_jax_tricks.typing import Float, Int, UInt8


IN_MEMORY_BYTES = 2**30  # most bytes that are kept without being asked for


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A decoded split; `box` is the part of each picture that is kept (see `Seen`)."""

    image: UInt8[np.ndarray, "n h w c"]
    label: Int[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, index: Int[np.ndarray, "b"], *, boxes: bool = False) -> Batch:
        """Batch of these examples; indices from `len(self)` on are copies."""
        example = index % len(self)
        batch = {
            "image": np.take(self.image, example, axis=0),
            "label": np.take(self.label, example),
            "index": index.astype(np.int32),
        }
        if boxes:
            batch["box"] = np.take(self.box, example, axis=0)
        return batch


@dataclasses.dataclass(frozen=True)
class Resident:
    """Splits that are decoded as a whole when they are first needed.

    Attributes:
      name: name of the data set.
      splits: its records by split.
      view: makes a fixed-size picture of bytes.
      repeats: times that each example occurs in a row.
    """

    name: str
    splits: Mapping[str, Records]
    view: Callable[[bytes], Seen]
    repeats: int
    _loaded: dict[str, Arrays] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def train_batches(
        self, batch_size: int, seed: int, start_step: int, *, boxes: bool
    ) -> Iterator[Batch]:
        """Endless batches from consecutive random permutations.

        Batch `s` holds positions s * b .. (s + 1) * b of the stream, so it depends only
        on (seed, s).
        """
        arrays = self._load("train")

        def rows(step: int) -> Int[np.ndarray, "b"]:
            return stream_rows(len(arrays), batch_size, seed, step, self.repeats)

        steps = itertools.count(start_step)
        return (arrays.rows(rows(step), boxes=boxes) for step in steps)

    def row_batches(
        self, split: str, rows: Int[np.ndarray, "n"], batch_size: int
    ) -> Iterator[Batch]:
        """The examples of `rows` in order; the last batch may be smaller."""
        arrays = self._load(split)
        starts = range(0, len(rows), batch_size)
        return (arrays.rows(rows[start : start + batch_size]) for start in starts)

    def labels(self, split: str) -> Int[np.ndarray, "n"]:
        """The labels of a split."""
        return self._load(split).label

    def _load(self, split: str) -> Arrays:
        if split not in self._loaded:
            records, title = self.splits[split], f"{self.name} {split}"
            self._loaded[split] = load(records, self.view, title)
        return self._loaded[split]


def load(records: Records, view: Callable[[bytes], Seen], title: str) -> Arrays:
    """Decodes a whole split on threads; `view` makes a fixed-size picture of bytes."""

    def one(index: int) -> tuple[Seen, int]:
        with reading(records, index):
            data, label = records[index]
            return view(data), label

    count = len(records)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        decoded = pool.map(one, range(count))
        (pixels, box), label = next(decoded)
        image = np.empty((count, *pixels.shape), np.uint8)
        labels = np.empty(count, np.int32)
        boxes = np.empty((count, 4), np.float32)
        image[0], boxes[0], labels[0] = pixels, box, label
        rest = progress(decoded, count - 1, f"decoding {title}")
        for i, ((pixels, box), label) in enumerate(rest, 1):
            image[i], boxes[i], labels[i] = pixels, box, label
    return Arrays(image, labels, boxes)


def stream_rows(
    count: int, batch_size: int, seed: int, step: int, repeats: int = 1
) -> Int[np.ndarray, "b"]:
    """Examples in batch `step`, which may cross the end of an epoch.

    Copy k of an example has index example + k count, so that each copy has its own
    draws.
    """
    place = step * batch_size + np.arange(batch_size)
    epochs, place, copy = repeated_places(place, count, repeats)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        rows[inside] = order[place[inside]]
    return rows + copy * count

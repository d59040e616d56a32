"""Small data sets as one uint8 array: a batch is a single vectorised gather."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.data.repeated import repeated_places
from vit_jax_tricks.data.source import Records, reading
from vit_jax_tricks.data.views import Seen
from vit_jax_tricks.typing import Float, Int, UInt8


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A decoded split; `box` is the part of each picture that is kept (see `Seen`)."""

    image: UInt8[np.ndarray, "n h w c"]
    label: Int[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, index: Int[np.ndarray, "b"]) -> dict[str, np.ndarray]:
        """Batch of these examples; indices from `len(self)` on are copies."""
        example = index % len(self)
        return {
            "image": np.take(self.image, example, axis=0),
            "label": np.take(self.label, example),
            "index": index.astype(np.int32),
            "box": np.take(self.box, example, axis=0),
        }


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


def train_batches(
    arrays: Arrays, batch_size: int, seed: int, start_step: int, repeats: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields endless batches from consecutive random permutations.

    Batch `s` holds positions s * b .. (s + 1) * b of the stream, so it depends only on
    (seed, s).
    """
    step = start_step
    while True:
        yield arrays.rows(stream_rows(len(arrays), batch_size, seed, step, repeats))
        step += 1


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


def row_batches(
    arrays: Arrays, batch_size: int, rows: Int[np.ndarray, "n"]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples of `rows` in order; the last batch may be smaller."""
    for start in range(0, len(rows), batch_size):
        yield arrays.rows(rows[start : start + batch_size])

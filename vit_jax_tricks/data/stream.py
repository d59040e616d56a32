"""Streams large data sets through Grain, decoding and cropping on the way."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax_tricks.data.prefetch import Batch
from vit_jax_tricks.data.repeated import epoch_length
from vit_jax_tricks.data.sample import labels_of
from vit_jax_tricks.data.source import Records, reading
from vit_jax_tricks.data.views import View
from vit_jax_tricks.data.worker import end_with_parent, shelter
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Int


DIED = "Worker process was terminated"  # start of Grain's error message


class Numbered:
    """Records as Grain elements that know their position in the split."""

    def __init__(self, records: Records):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[bytes, int, int]:
        with reading(self.records, index):
            return (*self.records[index], index)


class Chosen(Numbered):
    """Only the records `rows`, in that order."""

    def __init__(self, records: Records, rows: Int[np.ndarray, "n"]):
        super().__init__(records)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[bytes, int, int]:
        return super().__getitem__(int(self.rows[index]))


class Copied:
    """A copy of the elements with shifted indices, and so with its own draws."""

    def __init__(self, shift: int):
        self.shift = shift

    def __call__(self, record: tuple[bytes, int, int]) -> tuple[bytes, int, int]:
        data, label, index = record
        return data, label, index + self.shift


class TrainRow:
    """One training example; the draw depends on (seed, position in the stream)."""

    def __init__(self, view: View, records: Records, boxes: bool):
        self.view, self.records, self.boxes = view, records, boxes

    def __call__(
        self, record: tuple[bytes, int, int], rng: np.random.Generator
    ) -> Batch:
        data, label, index = record
        with reading(self.records, index % len(self.records)):
            pixels, box = self.view.train(data, rng)
        row = _row(pixels, label, index)
        return row | {"box": box} if self.boxes else row


class TestRow:
    """One evaluation example."""

    __test__ = False  # not a pytest class

    def __init__(self, view: View, records: Records):
        self.view, self.records = view, records

    def __call__(self, record: tuple[bytes, int, int]) -> Batch:
        data, label, index = record
        with reading(self.records, index):
            return _row(self.view.test(data), label, index)


def _row(image: np.ndarray, label: int, index: int) -> Batch:
    return {
        "image": image,
        "label": np.asarray(label, np.int32),
        "index": np.asarray(index, np.int32),
    }


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Splits whose pictures are read, decoded and cropped for each batch.

    Attributes:
      splits: records by split.
      view: the crops.
      workers: processes for training batches; 0 uses threads.
      repeats: times that each example occurs in a row.
    """

    splits: Mapping[str, Records]
    view: View
    workers: int = 0
    repeats: int = 1

    def train_batches(
        self, batch_size: int, seed: int, start_step: int, *, boxes: bool
    ) -> Iterator[Batch]:
        """Yields endless batches of random permutations, from any step without replay.

        The stream is the same for any number of worker processes, because the batched
        data set is sliced at `start_step` instead of restoring an iterator's state.
        """
        import grain

        records, repeats = self.splits["train"], self.repeats
        data = grain.MapDataset.source(Numbered(records)).seed(seed).shuffle()
        if repeats > 1:
            copies = [data.map(Copied(k * len(records))) for k in range(repeats)]
            data = grain.MapDataset.mix(copies).seed(seed)
            data = data[: epoch_length(len(records), repeats)]
        data = (
            data.repeat()
            .random_map(TrainRow(self.view, records, boxes))
            .batch(batch_size, drop_remainder=True)
        )
        yield from _read(data[start_step:], self.workers)

    def row_batches(
        self, split: str, rows: Int[np.ndarray, "n"], batch_size: int
    ) -> Iterator[Batch]:
        """Yields the examples of `rows` in order; the last batch may be smaller."""
        import grain

        chosen = Chosen(self.splits[split], rows)
        data = grain.MapDataset.source(chosen).map(TestRow(self.view, chosen.records))
        yield from _read(data.batch(batch_size, drop_remainder=False), workers=0)

    def labels(self, split: str) -> Sequence[int] | Int[np.ndarray, "n"]:
        """The labels of a split, read one by one unless they are known."""
        return labels_of(self.splits[split])


def _read(data, workers: int) -> Iterator[Batch]:
    import os

    import grain
    from absl import flags

    threads = max(1, os.cpu_count() or 1) if workers == 0 else 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = data.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # or Grain cannot start outside app.run
        shelter()  # this is Prefetch's thread
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), end_with_parent
        )
    iterator = iter(batches)
    try:
        yield from iterator
    except UserError as error:
        raise UserError(str(error)) from error  # without the notes that Grain adds
    except RuntimeError as error:
        if DIED not in str(error):
            raise
        status = re.search(r"exit code (-?\d+)", str(error))
        raise UserError(
            "a process that decodes pictures was ended from outside"
            f"{f' (status {status[1]})' if status else ''}, most often because memory "
            "ran out; use fewer config.data.workers or a smaller batch, then start the "
            "same command again."
        ) from error
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()

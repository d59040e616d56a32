"""An opened data set: endless training batches, exact test batches, and samples."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vit_jax_tricks.data import views
from vit_jax_tricks.data.prefetch import Batch, Prefetch
from vit_jax_tricks.data.sample import Sample, draw
from vit_jax_tricks.data.source import Records, Subset
from vit_jax_tricks.data.stream import Streamed
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Int


@runtime_checkable
class Reader(Protocol):
    """Batches of the splits "train" and "test": from memory, or as they are read."""

    def train_batches(
        self, batch_size: int, seed: int, start_step: int, *, boxes: bool
    ) -> Iterator[Batch]: ...

    def row_batches(
        self, split: str, rows: Int[np.ndarray, "n"], batch_size: int
    ) -> Iterator[Batch]: ...

    def labels(self, split: str) -> Sequence[int] | Int[np.ndarray, "n"]: ...


@dataclasses.dataclass(frozen=True)
class Data:
    """An opened data set: its description and its batches.

    A batch is a dict of `image` uint8 [b, h, w, c], `label` int32 [b] and `index` int32
    [b], the example's position in its split; copies made by repeated augmentation
    continue from num_train. `arguments` are those of `build`, which opens it again.
    """

    name: str
    class_names: Sequence[str]
    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    in_memory: bool
    view: views.View
    train: Records = dataclasses.field(repr=False)
    test: Records = dataclasses.field(repr=False)
    _reader: Reader = dataclasses.field(repr=False)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.image_shape[2]

    @property
    def whole_train(self) -> Records:
        """The training split before `examples` selected a subset."""
        return self.train.records if isinstance(self.train, Subset) else self.train

    def example_ids(self, index: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
        """Positions in `whole_train` of the examples of a training batch's `index`."""
        place = index % self.num_train
        return self.train.rows[place] if isinstance(self.train, Subset) else place

    def through(self, view: views.View, rows: range) -> "Data":
        """Some examples of `whole_train` as the training split, seen through a view.

        Nothing is kept in memory.
        """
        train = Subset(self.whole_train, np.arange(rows.start, rows.stop))
        return dataclasses.replace(
            self,
            image_shape=(*view.size, view.channels),
            num_train=len(train),
            in_memory=False,
            view=view,
            train=train,
            _reader=Streamed({"train": train, "test": self.test}, view),
        )

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        boxes: bool = False,
        more: Callable[[Batch], Batch] | None = None,
    ) -> Prefetch:
        """Endless batches; batch s depends only on (seed, s).

        The stream is one random permutation of the examples after another, so an epoch
        is num_train / batch_size steps long and may end inside a batch.

        Args:
          batch_size: number of examples.
          seed: seed of the permutations and of random crops.
          start_step: the first batch.
          boxes: adds `box` float32 [b, 4], the part of the picture that the image
            shows, as (top, left, height, width) in fractions of its sides.
          more: computes additional arrays from a batch.

        Raises:
          UserError: the batch does not have 1..num_train examples, or the seed is not a
            32-bit number.
        """
        _check_batch(batch_size)
        if batch_size > self.num_train:
            raise UserError(
                f"batch_size={batch_size} is larger than the {self.num_train} training "
                f"examples of {self.name}; give at most {self.num_train}."
            )
        _check_seed(seed)
        batches = self._reader.train_batches(batch_size, seed, start_step, boxes=boxes)
        if more is not None:
            return Prefetch(batch | more(batch) for batch in batches)
        return Prefetch(batches)

    def test_batches(self, batch_size: int, split: str = "test") -> Prefetch:
        """Every example of a split once, in order; the last batch is padded.

        `split="train"` gives the training examples with the evaluation view. Batches
        also have `mask` float32 [b]: 1 for an example, 0 for padding.
        """
        _check_batch(batch_size)
        count = self.num_train if split == "train" else self.num_test
        batches = self._reader.row_batches(split, np.arange(count), batch_size)
        return Prefetch(padded(batch, batch_size) for batch in batches)

    def sample(self, count: int, split: str = "test", seed: int = 0) -> Sample:
        """Draws `count` examples of a split over all classes, the same for a seed.

        Raises: UserError for a seed that is not a 32-bit number.
        """
        _check_seed(seed)
        return draw(
            self._reader.labels(split),
            count,
            num_classes=self.num_classes,
            seed=seed,
            split=split,
        )

    def sample_batches(self, sample: Sample, batch_size: int) -> Prefetch:
        """The examples of a sample with the evaluation view.

        Batches have neither padding nor `mask`; the last one may be smaller.
        """
        _check_batch(batch_size)
        return Prefetch(self._reader.row_batches(sample.split, sample.rows, batch_size))


def _check_batch(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r}; expected a whole number >= 1.")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}; expected 0 to {2**32 - 1}.")


def padded(batch: Batch, batch_size: int) -> Batch:
    """Pads to `batch_size` with zeros; `mask` marks the real rows."""
    count = len(batch["image"])
    fill = batch_size - count
    padded = {
        key: np.pad(value, [(0, fill)] + [(0, 0)] * (value.ndim - 1)) if fill else value
        for key, value in batch.items()
    }
    return padded | {"mask": (np.arange(batch_size) < count).astype(np.float32)}

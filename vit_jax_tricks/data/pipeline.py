"""`build`: opens a data set by name, with endless training and exact test batches."""

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vit_jax_tricks.data import memory, stream, views
from vit_jax_tricks.data.prefetch import Batch, Prefetch
from vit_jax_tricks.data.sample import Sample, draw, labels_of
from vit_jax_tricks.data.source import Records, Source, Subset
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Int


IN_MEMORY_BYTES = 2**30
Rows = Int[np.ndarray, "n"]
SCENES = ("32", "64", "224")
NAMES = ("digits", "digit_scenes", *(f"digit_scenes/{side}" for side in SCENES))


@dataclasses.dataclass(frozen=True)
class Data:
    """An opened data set: its description and its batches.

    A batch is a dict of `image` uint8 [b, h, w, c], `label` int32 [b] and `index` int32
    [b], the example's position in its split; copies made by repeated augmentation
    continue from num_train.
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
    _train: Callable[[int, int, int], Iterator[Batch]] = dataclasses.field(repr=False)
    _test: Callable[[int, str, Rows], Iterator[Batch]] = dataclasses.field(repr=False)
    _labels: Callable[[str], Any] = dataclasses.field(repr=False)

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

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        more: Callable[[Batch], Batch] | None = None,
    ) -> Prefetch:
        """Endless batches; batch s depends only on (seed, s).

        The stream is one random permutation of the examples after another, so an epoch
        is num_train / batch_size steps long and may end inside a batch. `more` computes
        additional arrays from a batch. The batch then also has `box` float32 [b, 4],
        the part of the picture that the image shows, as (top, left, height, width) in
        fractions of its sides.

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
        batches = self._train(batch_size, seed, start_step)
        if more is not None:
            return Prefetch(batch | more(batch) for batch in batches)
        return Prefetch(_without_box(batch) for batch in batches)

    def test_batches(self, batch_size: int, split: str = "test") -> Prefetch:
        """Every example of a split once, in order; the last batch is padded.

        `split="train"` gives the training examples with the evaluation view. Batches
        also have `mask` float32 [b]: 1 for an example, 0 for padding.
        """
        _check_batch(batch_size)
        count = self.num_train if split == "train" else self.num_test
        batches = self._test(batch_size, split, np.arange(count))
        return Prefetch(_padded(_without_box(b), batch_size) for b in batches)

    def sample(self, count: int, split: str = "test", seed: int = 0) -> Sample:
        """Draws `count` examples of a split over all classes, the same for a seed.

        Raises: UserError for a seed that is not a 32-bit number.
        """
        _check_seed(seed)
        return draw(
            self._labels(split),
            count,
            num_classes=self.num_classes,
            seed=seed,
            split=split,
        )

    def sample_batches(self, sample: Sample, batch_size: int) -> Prefetch:
        """The examples of a sample with the evaluation view.

        The last batch may be smaller.

        Batches have neither padding nor `mask`.
        """
        _check_batch(batch_size)
        batches = self._test(batch_size, sample.split, sample.rows)
        return Prefetch(_without_box(batch) for batch in batches)


def build(
    name: str,
    *,
    image_size: int | None = None,
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | os.PathLike | None = None,
    skip_broken: bool = False,
    in_memory: bool | Literal["auto"] = "auto",
    workers: int = 0,
    train_crop: str | None = None,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    crop_pct: float = 0.875,
    resize: str = "area",
    split_seed: int = 0,
    test_fraction: float = 0.2,
    examples: int | None = None,
    repeats: int = 1,
) -> Data:
    """Opens `digits`, `digit_scenes[/32|/64|/224]`, `folder:PATH` or `tfds:NAME`.

    Args:
      image_size: side in pixels of the model's input; by default the data's own, or 224
        if pictures differ in size.
      train_split, test_split: splits of a TFDS data set, such as `train[:90%]`.
      data_dir: folder of TFDS data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets.
      skip_broken: leaves out unreadable files of a folder instead of stopping.
      in_memory: keeps all pictures decoded; `auto` does so below 1 GiB if no random
        crop is drawn on the host.
      workers: processes that decode and crop data that is not in memory; 0 uses
        threads.
      train_crop: `random_resized`, or an evaluation view: `center`, `squash` (the same
        without keeping the aspect ratio) or `whole` (the whole picture, resized to a
        square). The default is `whole` if all pictures have one size, and
        `random_resized` otherwise.
      crop_scale, crop_ratio: fraction of the area, and w/h, of `random_resized`.
      crop_pct: fraction of the short side that evaluation sees.
      resize: `area` or `pil_bicubic`.
      split_seed, test_fraction: split of a folder without train and test folders.
      examples: trains on only this many examples, a fixed random choice.
      repeats: times that each example occurs in a row, augmented differently each time,
        in an epoch of unchanged length: DeiT's repeated augmentation, with 3.

    Raises:
      UserError: the name or a value is wrong, or an argument has no effect here.
    """
    given = locals()
    source = _open(given)
    view = _view(source, given)
    shape = (*view.size, source.channels)
    counts = len(source.train), len(source.test)
    random_crop = view.train_crop == "random_resized"
    if in_memory not in (True, False, "auto"):
        raise UserError(
            f"config.data.in_memory={in_memory!r}; expected True, False or auto."
        )
    if in_memory is True and random_crop:
        raise UserError(
            "config.data.in_memory=True keeps one view of each picture, so it cannot "
            "be used with train_crop=random_resized; give train_crop=center or whole."
        )
    if not isinstance(workers, int) or workers < 0:
        raise UserError(f"config.data.workers={workers!r}; expected 0 or more.")
    small = sum(counts) * math.prod(shape) < IN_MEMORY_BYTES
    resident = in_memory is True or (in_memory == "auto" and small and not random_crop)
    _refuse_idle(given, source, view, resident)
    if not isinstance(repeats, int) or repeats < 1:
        raise UserError(f"config.data.repeats={repeats!r}; expected 1 or more.")
    train = source.train
    if examples is not None:
        if not 1 <= examples <= len(train):
            raise UserError(
                f"config.data.examples={examples}; expected 1 to {len(train)}."
            )
        rows = np.random.default_rng(0).permutation(len(train))[:examples]
        train = Subset(train, np.sort(rows))
    parts = {"train": train, "test": source.test}
    load = functools.cache(
        lambda part: memory.load(parts[part], view.seen, f"{name} {part}")
    )

    def train_part(batch_size: int, seed: int, start_step: int) -> Iterator[Batch]:
        if resident:
            return memory.train_batches(
                load("train"), batch_size, seed, start_step, repeats
            )
        return stream.train_batches(
            train, view.train, batch_size, seed, start_step, workers, repeats
        )

    def test_part(batch_size: int, part: str, rows: Rows) -> Iterator[Batch]:
        if resident:
            return memory.row_batches(load(part), batch_size, rows)
        return stream.row_batches(parts[part], view.test, batch_size, rows)

    return Data(
        name=name,
        class_names=source.class_names,
        image_shape=shape,
        num_train=len(train),
        num_test=counts[1],
        in_memory=resident,
        view=view,
        train=train,
        test=source.test,
        _train=train_part,
        _test=test_part,
        _labels=lambda part: load(part).label if resident else labels_of(parts[part]),
    )


def _open(given: dict[str, Any]) -> Source:
    """Opens the source that `name` denotes."""
    from vit_jax_tricks.data import tfds_source

    name, size = given["name"], given["image_size"]
    place = given["data_dir"], given["train_split"], given["test_split"]
    kind, _, rest = str(name).partition(":")
    if kind == "folder" and rest:
        from vit_jax_tricks.data import folder

        return folder.open_folder(
            rest,
            skip_broken=given["skip_broken"],
            split_seed=given["split_seed"],
            test_fraction=given["test_fraction"],
        )
    if kind == "tfds" and rest:
        return tfds_source.named(rest, *place)
    if name == "digits":
        return tfds_source.digits(*place)
    if name == "digit_scenes":
        config = str(size) if str(size) in SCENES else "64"
        return tfds_source.digit_scenes(config, *place)
    if name in NAMES:
        return tfds_source.digit_scenes(name.partition("/")[2], *place)
    raise UserError(
        f'config.data.name="{name}" is unknown.{nearest(str(name), NAMES)} '
        f"Expected: {', '.join(NAMES)}, folder:PATH or tfds:NAME."
    )


def _view(source: Source, given: dict[str, Any]) -> views.View:
    """The crops that the arguments select, with defaults by the kind of source."""
    crop = given["train_crop"]
    crop = crop or ("random_resized" if source.size is None else "whole")
    side, own = given["image_size"], source.size
    if side is not None and not isinstance(side, int):
        raise UserError(f"config.data.image_size={side!r}; expected a whole number.")
    if side is None and own is not None and (crop == "whole" or own[0] == own[1]):
        size = own
    else:
        size = (224, 224) if side is None else (side, side)
    keys = ("crop_scale", "crop_ratio", "crop_pct", "resize")
    return views.View(
        size=size,
        channels=source.channels,
        train_crop=crop,
        **{key: given[key] for key in keys},
    )


def _refuse_idle(
    given: dict[str, Any], source: Source, view: views.View, resident: bool
) -> None:
    """Raises UserError for the first changed argument that would have no effect."""
    folder = given["name"].startswith("folder:")
    split_here = folder and not source.split_given
    random = view.train_crop == "random_resized"
    only = {
        "train_split": (not folder, "only for TFDS data sets"),
        "test_split": (not folder, "only for TFDS data sets"),
        "data_dir": (not folder, "only for TFDS data sets"),
        "skip_broken": (folder, "only for folder:PATH"),
        "split_seed": (
            split_here,
            "only for folder:PATH without train and test folders",
        ),
        "test_fraction": (
            split_here,
            "only for folder:PATH without train and test folders",
        ),
        "workers": (not resident, "for data that is not in memory (in_memory=False)"),
        "crop_scale": (random, "only with train_crop=random_resized"),
        "crop_ratio": (random, "only with train_crop=random_resized"),
        "crop_pct": (
            view.train_crop != "whole",
            "with train_crop=random_resized, center or squash",
        ),
        "resize": (source.size != view.size or random, "only where sizes change"),
    }
    for key, parameter in inspect.signature(build).parameters.items():
        works, where = only.get(key, (True, ""))
        if not works and given[key] != parameter.default:
            raise UserError(
                f"config.data.{key}={given[key]!r} has no effect on {given['name']}; "
                f"it works {where}. Leave it out."
            )


def _check_batch(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r}; expected a whole number >= 1.")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}; expected 0 to {2**32 - 1}.")


def _without_box(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key != "box"}


def _padded(batch: Batch, batch_size: int) -> Batch:
    """Pads to `batch_size` with zeros; `mask` marks the real rows."""
    count = len(batch["label"])
    fill = batch_size - count
    padded = {
        key: np.pad(value, [(0, fill)] + [(0, 0)] * (value.ndim - 1)) if fill else value
        for key, value in batch.items()
    }
    return padded | {"mask": (np.arange(batch_size) < count).astype(np.float32)}

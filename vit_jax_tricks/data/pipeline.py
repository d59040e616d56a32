"""`build`: opens a data set by name and decides how its pictures are read."""

import inspect
import math
import os
from typing import Any, Literal

import numpy as np

from vit_jax_tricks.data import views
from vit_jax_tricks.data.catalog import open_source
from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.memory import IN_MEMORY_BYTES, Resident
from vit_jax_tricks.data.source import Records, Source, Subset
from vit_jax_tricks.data.stream import Streamed
from vit_jax_tricks.errors import UserError


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
    arguments = dict(locals())
    source = open_source(
        name,
        image_size=image_size,
        data_dir=data_dir,
        train_split=train_split,
        test_split=test_split,
        skip_broken=skip_broken,
        split_seed=split_seed,
        test_fraction=test_fraction,
    )
    crop = train_crop or ("random_resized" if source.size is None else "whole")
    view = views.View(
        size=_size(source, image_size, crop),
        channels=source.channels,
        train_crop=crop,
        crop_scale=crop_scale,
        crop_ratio=crop_ratio,
        crop_pct=crop_pct,
        resize=resize,
    )
    resident = _fits_in_memory(source, view, in_memory)
    if not isinstance(workers, int) or workers < 0:
        raise UserError(f"config.data.workers={workers!r}; expected 0 or more.")

    def idle(where: str, **given: Any) -> None:
        _refuse_changed(name, where, given)

    if name.startswith("folder:"):
        places = {"train_split": train_split, "test_split": test_split}
        idle("only for TFDS data sets", **places, data_dir=data_dir)
    else:
        idle("only for folder:PATH", skip_broken=skip_broken)
    if resident:
        where = "for data that is not in memory (in_memory=False)"
        idle(where, workers=workers)
    random = crop == "random_resized"
    if not random:
        where = "only with train_crop=random_resized"
        idle(where, crop_scale=crop_scale, crop_ratio=crop_ratio)
    if crop == "whole":
        idle("with train_crop=random_resized, center or squash", crop_pct=crop_pct)
    if source.size == view.size and not random:
        idle("only where sizes change", resize=resize)
    if source.split_given:
        where = "only for folder:PATH without train and test folders"
        idle(where, split_seed=split_seed, test_fraction=test_fraction)
    if not isinstance(repeats, int) or repeats < 1:
        raise UserError(f"config.data.repeats={repeats!r}; expected 1 or more.")

    train = _some(source.train, examples)
    splits = {"train": train, "test": source.test}
    if resident:
        reader = Resident(name, splits, view.seen, repeats)
    else:
        reader = Streamed(splits, view, workers, repeats)
    return Data(
        name=name,
        class_names=source.class_names,
        image_shape=(*view.size, source.channels),
        num_train=len(train),
        num_test=len(source.test),
        in_memory=resident,
        view=view,
        train=train,
        test=source.test,
        _reader=reader,
        arguments=arguments,
    )


def _size(source: Source, side: int | None, crop: str) -> tuple[int, int]:
    """Height and width of the images: as given, or else the source's own."""
    own = source.size
    if side is not None and not isinstance(side, int):
        raise UserError(f"config.data.image_size={side!r}; expected a whole number.")
    if side is None and own is not None and (crop == "whole" or own[0] == own[1]):
        return own
    return (224, 224) if side is None else (side, side)


def _fits_in_memory(
    source: Source, view: views.View, in_memory: bool | Literal["auto"]
) -> bool:
    """Whether all pictures are kept decoded."""
    random = view.train_crop == "random_resized"
    if in_memory not in (True, False, "auto"):
        raise UserError(
            f"config.data.in_memory={in_memory!r}; expected True, False or auto."
        )
    if in_memory is True and random:
        raise UserError(
            "config.data.in_memory=True keeps one view of each picture, so it cannot "
            "be used with train_crop=random_resized; give train_crop=center or whole."
        )
    count = len(source.train) + len(source.test)
    small = count * math.prod(view.size) * view.channels < IN_MEMORY_BYTES
    return in_memory is True or (in_memory == "auto" and small and not random)


def _refuse_changed(name: str, where: str, given: dict[str, Any]) -> None:
    """Raises UserError for the first argument of `build` that is not its default."""
    defaults = inspect.signature(build).parameters
    for key, value in given.items():
        if value != defaults[key].default:
            raise UserError(
                f"config.data.{key}={value!r} has no effect on {name}; it works "
                f"{where}. Leave it out."
            )


def _some(train: Records, examples: int | None) -> Records:
    """The first `examples` of a fixed random order, or all."""
    if examples is None:
        return train
    if not 1 <= examples <= len(train):
        raise UserError(f"config.data.examples={examples}; expected 1 to {len(train)}.")
    rows = np.random.default_rng(0).permutation(len(train))[:examples]
    return Subset(train, np.sort(rows))

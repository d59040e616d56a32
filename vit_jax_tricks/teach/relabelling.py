"""Writes a teacher's labels of all training examples as a label pack."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.manifest import PackSpec
from vit_jax_tricks.data.label_pack.writer import finished, write_pack
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.trained import Trained, load
from vit_jax_tricks.teach.labeller import labeller, open_data
from vit_jax_tricks.typing import Shaped


@runtime_checkable
class Records(Protocol):
    """Gives the records of a pack: a `Labeller`, or official label maps."""

    @property
    def spec(self) -> PackSpec: ...

    def records(
        self, examples: range, check: Callable[[int], None]
    ) -> Iterator[Shaped[np.ndarray, "b"]]: ...


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """A complete label pack.

    Attributes:
      pack: opened.
      written: number of examples that were not there before.
      correct: how many of these have the label as their top class.
    """

    pack: LabelPack
    written: int
    correct: int


def relabel(
    teacher: Trained | str | os.PathLike,
    data: Data | str | None = None,
    *,
    out: str | os.PathLike,
    top: int = 5,
    grid: tuple[int, int] | None = None,
    raw: bool = False,
    batch_size: int = 64,
    examples_per_file: int = 8192,
    progress: Progress = silent,
    **options: Any,
) -> Relabelled:
    """Labels all training examples and their patches, as `config.teacher.pack` takes.

    The teacher sees each picture whole, resized to a square. After an interruption, the
    same call resumes at the next file.

    Args:
      teacher: a model from `runs.load`, or the workdir of a run.
      data: a data spec, or opened data; by default that of the teacher's run.
      out: the label pack, a new folder.
      top: classes to keep for each place; all are kept if there are few.
      grid: rows and columns of places; by default the teacher's own.
      raw: keeps the logits unshifted; by default they are shifted so that the log of
        the dropped classes' mean exponential is 0.
      batch_size: examples per batch.
      examples_per_file: the most work that an interruption repeats.
      progress: called with the number of examples done and of all, before each batch;
        may raise to stop.
      options: arguments of `data.build` that select examples.

    Raises:
      UserError: data with other classes, a finer grid than the teacher's, a folder that
        holds something else, and as `runs.load` and `data.build`.

    Example:
      made = relabel("runs/digits", out="runs/labels", top=3)
      scores = made.pack.rows(numpy.arange(8))
    """
    if not isinstance(teacher, Trained):
        teacher = load(teacher, resize="area")
    source = data if isinstance(data, Data) else open_data(teacher, data, **options)
    records = labeller(
        teacher,
        source,
        top=top,
        grid=grid,
        raw=raw,
        batch_size=batch_size,
        examples_per_file=examples_per_file,
    )
    return write(out, records, progress)


def write(
    out: str | os.PathLike, source: Records, progress: Progress = silent
) -> Relabelled:
    """Writes the missing parts of a pack. Raises UserError as `relabel`."""
    folder: Path = paths.utf8(paths.absolute(out))
    spec = source.spec
    start, correct = finished(folder, spec).examples, 0

    def check(done: int) -> None:
        progress(done, spec.count)

    def records(part: range) -> Iterator[Shaped[np.ndarray, "b"]]:
        nonlocal correct
        for piece in source.records(part, check):
            correct += int((piece["class_classes"][:, 0] == piece["label"]).sum())
            yield piece

    wrote = write_pack(folder, spec, records)
    written = spec.count - start if wrote else 0
    return Relabelled(LabelPack.open(folder), written, correct)

"""Sources of an objective's targets, as configured by `config.teacher`."""

import dataclasses
import functools
from typing import Any

import numpy as np

from vit_jax_tricks.augment.geometry import Geometry
from vit_jax_tricks.config import Section
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.code import decode
from vit_jax_tricks.errors import UserError, about
from vit_jax_tricks.objectives import TERMS, Objective
from vit_jax_tricks.objectives.targets import TARGETS, Stored, Teach, stored_labels
from vit_jax_tricks.objectives.term import within
from vit_jax_tricks.sharding import each_shard
from vit_jax_tricks.teach import teachers
from vit_jax_tricks.typing import Array


PACKED = frozenset(name for name, target in TARGETS.items() if target.packed)


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Teachers and stored labels of a run, and the step functions that use them.

    Attributes:
      teachers: models that run inside the step.
      pack: labels that come with the data.
      stored, teach: arguments of `supervised.prepare` and `supervised.forward_loss`.
    """

    teachers: list[teachers.Teacher]
    pack: LabelPack | None
    stored: Stored | None
    teach: Teach | None

    def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape (of one example) and dtype of the additional entries of a batch."""
        if self.pack is None:
            return {}
        one = self.pack.rows(np.zeros(1, np.int64))
        out = {name: (array.shape[1:], array.dtype) for name, array in one.items()}
        return out | {"box": ((4,), np.dtype(np.float32))}

    def rows(self, source: Data, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """The entries that the pack adds to a batch of `source`."""
        if self.pack is None:
            return {}
        return self.pack.rows(source.example_ids(batch["index"]), batch["label"])

    def fingerprint(self) -> list[dict[str, str]]:
        """Everything here that must be equal for a resumed run to be the same run."""
        out = [teacher.fingerprint() for teacher in self.teachers]
        if self.pack is not None:
            out.append({"pack": str(self.pack.path), "checksum": self.pack.checksum})
        return out


def build(
    section: Section,
    *,
    objective: Objective,
    source: Data,
    model: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: Any,
) -> Teaching:
    """Loads what `config.teacher` names and checks it against data and student.

    Args:
      section: config.teacher.
      objective: determines what is needed.
      source: the student's data.
      model: the student.
      mean, std: the student's normalisation.
      dtype: compute dtype of the teachers.

    Raises:
      UserError: a term without a teacher, a teacher without a term, or one that does
        not fit.
    """
    sources, pack, needs = tuple(section.sources), section.pack, objective.needs
    smoothing, as_released = section.smoothing, section.as_released
    _check(section, needs)
    from_pack = frozenset() if pack is None else PACKED
    if sources:  # the teacher's logits for the student's own images
        from_pack -= {"teacher_logits"}
    live = needs - from_pack
    if sources and not live:
        raise UserError(
            f"config.teacher.sources={sources}: the pack gives all targets that "
            "config.loss needs; leave the sources out, or add config.loss.distillation."
        )
    grid = _grid(model) if "token_labels" in needs else None
    loaded = teachers.load(sources, needs=live, source=source, dtype=dtype)
    teach = stored = opened = None
    if loaded:
        teach = functools.partial(
            teachers.teach,
            teachers=loaded,
            needs=live,
            mean=mean,
            std=std,
            grid=grid if "token_labels" in live else None,
            smoothing=smoothing,
        )
    if pack is not None:
        with about("config.teacher.pack"):
            opened = LabelPack.open(pack)
            opened.check(source, num_classes=source.num_classes)
        stored = functools.partial(
            _stored,
            needs=needs & from_pack,
            num_classes=source.num_classes,
            grid=grid or (1, 1),
            smoothing=smoothing,
            as_released=as_released,
        )
    return Teaching(loaded, opened, stored, teach)


def _check(section: Section, needs: frozenset[str]) -> None:
    sources, pack = tuple(section.sources), section.pack
    path = "config.teacher"
    within(path, "smoothing", section.smoothing, below=1)
    if not all(isinstance(source, str) for source in sources):
        raise UserError(
            f"{path}.sources={sources}: expected workdirs or NAME@WEIGHTS, such as "
            "('runs/teacher',)."
        )
    if needs and not sources and (pack is None or needs - PACKED):
        term = next(name for name, entry in TERMS.items() if entry.needs & needs)
        other = f", or --{path}.pack=DIR" if needs <= PACKED else ""
        raise UserError(
            f"config.loss.{term} needs a teacher: give "
            f"--{path}.sources=\"('WORKDIR',)\"{other}."
        )
    if (sources or pack is not None) and not needs:
        terms = [name for name, entry in TERMS.items() if entry.needs]
        raise UserError(
            f"{path}: nothing in config.loss learns from a teacher; add one of "
            f"{', '.join(terms)} there, as configs/deit_s_distilled.py does."
        )
    dense = "token_labels" in needs
    if section.smoothing and not dense:
        raise UserError(
            f"{path}.smoothing={section.smoothing} applies only to token labels, which "
            "config.loss does not use; leave it out."
        )
    if section.as_released and (pack is None or not dense):
        raise UserError(
            f"{path}.as_released=True applies only to token labels from a pack; leave "
            "it out."
        )


def _grid(model: Any) -> tuple[int, int]:
    """The grid of the student's tokens that have logits."""
    form = model.token_head()
    if not form.dense:
        raise UserError(
            "config.loss.token_labels needs a model with a dense head: an lvvit_ name "
            "with config.model.return_dense=True, or a volo_ name."
        )
    return form.grid


def _stored(
    geometry: Geometry,
    batch: dict[str, Array],
    *,
    needs: frozenset[str],
    **options: Any,
) -> dict[str, Array]:
    """`stored_labels` of a batch; each device computes those of its own images."""
    names = [name for name in batch if name not in ("image", "label")]
    keep = {
        "class_labels": "class_labels",
        "teacher_logits": "teacher_labels",
        "token_labels": "token_labels",
    }

    def labels(_: None, moves: Geometry, *arrays: Array) -> dict[str, Array]:
        part = dict(zip(names, arrays, strict=True))
        made = stored_labels(part | decode(part), moves, **options)
        return {keep[need]: made[keep[need]] for need in sorted(needs)}

    return each_shard(labels)(None, geometry, *[batch[name] for name in names])

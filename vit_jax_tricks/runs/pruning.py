"""Prunes a trained model, and writes the smaller one as a workdir."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vit_jax_tricks import config
from vit_jax_tricks.compress.pruning import pruned
from vit_jax_tricks.compress.pruning.groups import KINDS
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.inspect.pruning_sheet import write_sheet
from vit_jax_tricks.runs import made_run, resume
from vit_jax_tricks.runs.data import open_data
from vit_jax_tricks.runs.finetune_config import finetune_config
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.prune_table import markdown, rows
from vit_jax_tricks.runs.trained import Trained, load
from vit_jax_tricks.typing import Array


FINETUNE = "finetune.py"


@dataclasses.dataclass(frozen=True)
class PrunedModel:
    """A pruned model.

    Attributes:
      trained: the smaller model with its weights.
      result: the record of the pruning.
      scored_on: the data and the images of the scores, for people.
      workdir: the workdir that was written, or None.
    """

    trained: Trained
    result: pruned.Pruned
    scored_on: str
    workdir: Path | None


def prune(
    trained: Trained | str | os.PathLike,
    data: Data | str | None = None,
    *,
    out: str | os.PathLike | None = None,
    flops: float = 0.6,
    width: float = 1.0,
    criterion: str = "gradient",
    normalize: str = "layer",
    kinds: Sequence[str] = tuple(KINDS),
    min_heads: int = 1,
    min_hidden: int = 8,
    multiple: int = 8,
    images: int = 2048,
    batch_size: int = 64,
    progress: Progress = silent,
) -> PrunedModel:
    """Removes a trained model's least important heads and hidden units.

    Args:
      trained: a float model from `load`, or the workdir of a run.
      data: as `open_data` takes it; by default the run's own.
      out: a new folder, which becomes a workdir with the smaller model, a report, and
        `finetune.py`, a config that fine-tunes it. By default nothing is written.
      flops, width, criterion, normalize, kinds, min_heads, min_hidden, multiple: as
        `compress.prune` takes them.
      images: number of training images for the scores.
      batch_size: images per batch.
      progress: called before each batch and at the end of each pass; may raise to stop.

    Raises:
      UserError: a quantised model, a folder that holds something, and as `load`,
        `open_data` and `compress.prune`.

    Example:
      small = runs.prune("runs/digits", flops=0.5, out="runs/digits_pruned")
      runs.evaluate(small.trained, "digits")
    """
    folder = None if out is None else made_run.check_new(out)
    trained = trained if isinstance(trained, Trained) else load(trained)
    made_run.check_float(trained)
    source = open_data(trained, data)
    sample = source.sample(images, "train")
    options: dict[str, Any] = dict(
        flops=flops,
        width=width,
        criterion=criterion,
        normalize=normalize,
        kinds=tuple(kinds),
        min_heads=min_heads,
        min_hidden=min_hidden,
        multiple=multiple,
    )
    scored_on = f"{source.name}: {sample}"

    def made() -> PrunedModel:
        batches = _Batches(trained, source, sample, batch_size, progress)
        model, variables = trained.model, trained.variables[""]
        result = pruned.prune(model, variables, batches, **options)
        return PrunedModel(_smaller(trained, result), result, scored_on, folder)

    if folder is None:
        return made()
    with made_run.staged(folder) as place:
        done = made()
        facts = {**options, "kinds": ", ".join(kinds), "scores": scored_on}
        _write(place, folder, trained, source, done, facts)
    return dataclasses.replace(done, trained=_at(done.trained, folder))


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The sample as model inputs, as often as it is iterated."""

    trained: Trained
    source: Data
    sample: Sample
    batch_size: int
    progress: Progress

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        spec = self.trained.spec
        for batch in model_inputs(
            self.source,
            self.sample,
            batch_size=min(self.batch_size, len(self.sample)),
            mean=spec.mean,
            std=spec.std,
            progress=self.progress,
        ):
            yield batch["image"], batch["label"]


def _smaller(trained: Trained, result: pruned.Pruned) -> Trained:
    spec, small = trained.spec, result.model
    separate = {"scan": False, "remat": small.remat}
    spec = dataclasses.replace(
        spec, fields={**spec.fields, **_sizes(result), **separate}
    )
    variables = {"": result.variables}
    return dataclasses.replace(
        trained, spec=spec, model=small, variables=variables, reports=()
    )


def _sizes(result: pruned.Pruned) -> dict[str, Any]:
    """The fields that differ from the larger model's."""
    small, full = result.model, result.full_model
    names = (field.name for field in dataclasses.fields(small))
    pairs = {name: (getattr(small, name), getattr(full, name)) for name in names}
    return {name: value for name, (value, before) in pairs.items() if value != before}


def _at(trained: Trained, workdir: Path) -> Trained:
    return dataclasses.replace(trained, workdir=workdir, source=f"{workdir}, step 0")


def _write(
    place: Path,
    out: Path,
    trained: Trained,
    source: Data,
    made: PrunedModel,
    facts: dict[str, Any],
) -> None:
    """Writes the new workdir to a folder that will become `out`."""
    result, spec = made.result, made.trained.spec
    before = made_run.config_before(trained, source)
    sizes = _sizes(result)
    before["model"] |= {field: value for field, value in sizes.items() if value}
    before["model"].pop("scan", None)
    made_run.save(place, result.variables)
    (place / "report").mkdir()
    picture = write_sheet(place / "report" / "pruning.png", result)
    facts = {"weights": trained.source, **facts}
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    table = markdown(rows(result))
    text = f"# {out.name}\n\n{listed}\n\n{table}\n![kept]({picture.name})\n"
    (place / "report" / "pruning.md").write_text(text, "utf-8", "backslashreplace")
    epochs = before["epochs"]
    if before["steps"] is not None:
        epochs = before["steps"] * before["batch_size"] / source.num_train
    mixes = result.model.mixes_images  # a teacher sees unmixed images
    teacher = None if mixes or trained.workdir is None else str(trained.workdir)
    written = finetune_config(
        before,
        config.defaults(),
        out,
        epochs=epochs,
        share=result.macs / result.full_macs,
        teacher=teacher,
    )
    (place / FINETUNE).write_text(written, "utf-8")
    names = list(source.class_names)
    resume.record(place, config.Section(before), names, spec.to_json(), [])

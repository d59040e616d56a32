"""Quantises a trained model, measures the cost, and writes the result as a workdir."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax_tricks import config
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.range_store import (
    by_layer,
    from_layers,
    stored,
    with_stored,
    without_ranges,
)
from vit_jax_tricks.compress.quant.sensitivity import Cost
from vit_jax_tricks.compress.quant.sensitivity import sensitivity as costs_of
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.inspect.sensitivity_sheet import write_sheet
from vit_jax_tricks.models.stacking import flatten, unflatten
from vit_jax_tricks.runs import made_run, quant_config, resume
from vit_jax_tricks.runs.data import open_data
from vit_jax_tricks.runs.evaluation import evaluate
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.trained import Trained, load


DEFAULTS = {"weights": "int8_narrow", "activations": "int8"}
COLUMNS = ("place", "SQNR, dB", "top-1 agreement", "loss")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantised model and what it costs.

    Attributes:
      trained: the quantised model with its ranges.
      before: the origin of the float weights.
      data: the name of the data.
      sample: the calibration images.
      places: number of quantised places.
      float_metrics, metrics: of the float and of the quantised model, on the test
        split.
      costs: the cost of each place alone, and of all together, if requested.
      workdir: the workdir that was written, or None.
    """

    trained: Trained
    before: str
    data: str
    sample: Sample
    places: int
    float_metrics: dict[str, float]
    metrics: dict[str, float]
    costs: list[Cost]
    workdir: Path | None

    @property
    def quant(self) -> dict[str, Any]:
        """The keys of `config.quant` that are set."""
        section = self.trained.spec.quant or {}
        return {key: value for key, value in section.items() if value}

    def rows(self) -> dict[str, Any]:
        """The result for people: a name and a text for each fact."""
        rows = {
            "weights": self.before,
            "quantised": ", ".join(f"{k} {v}" for k, v in self.quant.items()),
            "places": self.places,
            "calibrated on": f"{self.data}: {self.sample}",
        }
        for key, value in self.float_metrics.items():
            rows[key] = f"float {value:.4f}, quantised {self.metrics[key]:.4f}"
        return rows

    def to_json(self) -> dict[str, Any]:
        out = {
            "weights": self.before,
            "data": self.data,
            "quant": self.quant,
            "calibration images": len(self.sample),
            "calibration": self.sample.facts(),
            "quantised places": self.places,
            "float": self.float_metrics,
            "quantised": self.metrics,
        }
        listed = [cost._asdict() for cost in self.costs]
        return out | ({"sensitivity": listed} if listed else {})


def quantize(
    trained: Trained | str | os.PathLike,
    data: Data | str | None = None,
    *,
    out: str | os.PathLike | None = None,
    sensitivity: int = 0,
    batch_size: int = 256,
    progress: Progress = silent,
    **quant: Any,
) -> Quantized:
    """Calibrates a trained model and measures it beside the float model.

    Args:
      trained: a float model from `load`, or the workdir of a run.
      data: as `open_data` takes it; by default the run's own.
      out: a new folder, which becomes a workdir with the ranges and a report. By
        default nothing is written.
      sensitivity: training images on which each place is also quantised alone; 0 for
        none.
      batch_size: examples per batch of the evaluation.
      progress: called before each batch and at the end of each pass; may raise to stop.
      quant: keys of `config.quant`; by default int8_narrow weights and int8
        activations, with ranges from 512 training images.

    Raises:
      UserError: a model that is quantised already, nothing to quantise, a folder that
        holds something, and as `load`, `open_data` and `quant_config.rules_of`.

    Example:
      made = runs.quantize("runs/digits", calibration=256)
      made.metrics["accuracy"] - made.float_metrics["accuracy"]
    """
    section = checked_section(quant)
    folder = None if out is None else made_run.check_new(out)
    trained = trained if isinstance(trained, Trained) else load(trained)
    made_run.check_float(trained)
    source = open_data(trained, data)

    def make() -> Quantized:
        return _quantized(trained, source, section, sensitivity, batch_size, progress)

    if folder is None:
        return make()
    with made_run.staged(folder) as place:
        made = make()
        _write(place, folder, source, made)
    moved = dataclasses.replace(
        made.trained, workdir=folder, source=f"{folder}, step 0"
    )
    return dataclasses.replace(made, trained=moved, workdir=folder)


def checked_section(quant: Mapping[str, Any]) -> dict[str, Any]:
    """A whole section `config.quant` with these keys.

    Raises: UserError for unknown keys, wrong values, and nothing to quantise.
    """
    section = config.filled("quant", {**DEFAULTS, **quant})
    if quant_config.rules_of(section) is None:
        raise UserError(
            "nothing would be quantised: give ", Argument("weights"), "=int8_narrow."
        )
    quant_config.images_of(section)
    return section


def _quantized(
    trained: Trained,
    source: Data,
    section: dict[str, Any],
    images: int,
    batch_size: int,
    progress: Progress,
) -> Quantized:
    spec = trained.spec
    assert not isinstance(trained.model, QuantizedModel)
    model = quant_config.quantized(trained.model, section)
    assert model is not None
    sample = source.sample(quant_config.images_of(section), "train")
    variables = quant_config.calibrated(
        model,
        trained.variables[""],
        source,
        sample,
        mean=spec.mean,
        std=spec.std,
        progress=progress,
    )
    plain = dataclasses.replace(trained, variables={"": trained.variables[""]})
    made = dataclasses.replace(
        trained,
        spec=dataclasses.replace(spec, quant=section),
        model=model,
        variables={"": variables},
        reports=(),
    )
    options = {"batch_size": batch_size, "progress": progress}
    metrics = [evaluate(one, source, **options) for one in (plain, made)]
    for one in metrics:
        del one["count"]
    return Quantized(
        trained=made,
        before=trained.source,
        data=source.name,
        sample=sample,
        places=len(model.ranges(variables)),
        float_metrics=metrics[0],
        metrics=metrics[1],
        costs=_costs(made, source, images, progress) if images else [],
        workdir=None,
    )


def _costs(made: Trained, source: Data, images: int, progress: Progress) -> list[Cost]:
    """The cost of each place alone, computed with unstacked blocks."""
    assert isinstance(made.model, QuantizedModel)
    spec, whole = made.spec, made.variables[""]
    apart = made.model.model.clone(scan=False, remat=False)
    model = QuantizedModel(apart, made.model.rules)
    variables = unflatten(flatten(without_ranges(whole)))
    like = jax.eval_shape(model.with_any_ranges, variables)
    kept = stored(from_layers(like, by_layer(whole)))
    ranges = model.ranges(with_stored(variables, kept))
    batches = list(
        quant_config.calibration_batches(
            source,
            source.sample(images, "train"),
            mean=spec.mean,
            std=spec.std,
            progress=progress,
        )
    )
    return costs_of(
        model.model,
        variables,
        batches,
        ranges,
        model.rules,
        progress=progress,
    )


def _write(place: Path, out: Path, source: Data, made: Quantized) -> None:
    """Writes the new workdir and its report to a folder that will become `out`."""
    spec = made.trained.spec
    before = made_run.config_before(made.trained, source)
    before |= {"name": f"{before['name']}_quantized", "quant": spec.quant}
    made_run.save(place, made.trained.variables[""])
    names = list(source.class_names)
    resume.record(place, config.Section(before), names, spec.to_json(), [])
    report = place / "report"
    report.mkdir()
    facts = json.dumps(made.to_json(), indent=1)
    (report / "quantize.json").write_text(facts + "\n")
    listed = "".join(f"- {k}: {v}\n" for k, v in made.rows().items())
    text = f"# {out.name}\n\n{listed}"
    if made.costs:
        picture = write_sheet(report / "sensitivity.png", made.costs)
        text += f"\n{_table(made.costs)}\n![sensitivity]({picture.name})\n"
    (report / "summary.md").write_text(text, "utf-8", "backslashreplace")


def ranked(costs: list[Cost]) -> list[Cost]:
    """The most sensitive place first, everything together last."""
    return [*sorted(costs[:-1], key=lambda cost: cost.sqnr), costs[-1]]


def cells(cost: Cost) -> tuple[str, ...]:
    """A row of the table, under `COLUMNS`."""
    return (
        cost.place,
        f"{cost.sqnr:.1f}",
        f"{cost.agreement:.2%}",
        f"{cost.loss:+.4f}",
    )


def _table(costs: list[Cost]) -> str:
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    lines += map(cells, ranked(costs))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

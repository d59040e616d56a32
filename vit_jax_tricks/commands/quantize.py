"""Body of the command `quantize`: calibrates and measures the cost."""

import dataclasses
import json
from pathlib import Path
from shlex import quote
from typing import Any

import jax

from vit_jax_tricks import config
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.range_store import (
    by_layer,
    from_layers,
    stored,
    with_stored,
    without_ranges,
)
from vit_jax_tricks.compress.quant.sensitivity import Cost, sensitivity
from vit_jax_tricks.config import Section
from vit_jax_tricks.console import Bar, banner, say
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.inspect.sensitivity_sheet import write_sheet
from vit_jax_tricks.models.stacking import flatten, unflatten
from vit_jax_tricks.runs import evaluation, made_run, model_flags, quantizing, resume
from vit_jax_tricks.runs.evaluation import Evaluation
from vit_jax_tricks.runs.model_flags import Trained
from vit_jax_tricks.runs.scores import means
from vit_jax_tricks.stop import Stop


DEFAULTS = (("weights", "int8_narrow"), ("activations", "int8"))
IMAGES = 256  # images for the sensitivity
SHOWN = 10  # places shown on the screen; the report has all
COLUMNS = ("place", "SQNR, dB", "top-1 agreement", "loss")


def run(given: Arguments, stop: Stop) -> Path:
    """Quantises the model that a command line names and returns the new workdir.

    Raises:
      UserError: flags that contradict one another, a folder that is not empty, and as
        `quantizing.rules_of`, `load_pretrained` and `data.build`.
    """
    if given.get("images") and not given.get("sensitivity"):
        raise UserError("--images is for --sensitivity; add it or leave both out.")
    section = _section(given)
    rules, count = quantizing.rules_of(section), quantizing.images_of(section)
    if rules is None:
        raise UserError("nothing would be quantised: give --quant.weights=int8_narrow.")
    out = made_run.new_folder(given, "quantized")
    trained = model_flags.load(given, resize="area")
    made_run.check_float(trained)
    place = evaluation.opened(trained, given)
    assert not isinstance(trained.model, QuantizedModel)
    model = QuantizedModel(trained.model, rules)
    spec, sample = trained.spec, place.data.sample(count, "train")
    with made_run.staged(out) as folder:
        variables = quantizing.calibrated(
            model,
            trained.variables[""],
            place.data,
            sample,
            mean=spec.mean,
            std=spec.std,
            check=stop.check,
        )
        made = dataclasses.replace(
            trained,
            spec=dataclasses.replace(spec, quant=section.to_dict()),
            model=model,
            variables={"": variables},
        )
        result = {
            "weights": trained.source,
            "data": place.data.name,
            "quant": {k: v for k, v in section.to_dict().items() if v},
            "calibration images": len(sample),
            "calibration": sample.facts(),
            "quantised places": len(model.ranges(variables)),
            "float": _measured(place, trained),
            "quantised": _measured(place, made),
        }
        costs = _costs(given, trained, made, place, stop)
        _write(folder, out, given, made, place, sample, result, costs)
    say(f"report: {out / 'report' / 'summary.md'}")
    workdir = quote(str(out))
    say(
        f"export: python -m vit_jax_tricks.export --workdir={workdir} --int8 --out=FILE"
    )
    return out


def _section(given: Arguments) -> Section:
    """`config.quant` as set by the flags."""
    pairs = [*DEFAULTS, *given.sections["quant"]]
    if count := given.get("calibration"):
        given.whole("calibration", None)
        pairs.append(("calibration", count))
    own = str(config.config_dir() / "digits.py")
    return config.load(own, [(f"quant.{key}", text) for key, text in pairs]).quant


def _measured(place: Evaluation, trained: Trained) -> dict[str, float]:
    one = dataclasses.replace(trained, variables={"": trained.variables[""]})
    return means(evaluation.sums(place, one, ("test",)), place.data.num_classes)


def _costs(
    given: Arguments, trained: Trained, made: Trained, place: Evaluation, stop: Stop
) -> list[Cost]:
    """Sensitivity of each place, if requested, with unstacked blocks."""
    if not given.get("sensitivity"):
        return []
    assert isinstance(made.model, QuantizedModel)
    spec, whole = trained.spec, made.variables[""]
    fields: Any = {f: False for f in ("scan", "remat") if hasattr(made.model, f)}
    model = QuantizedModel(made.model.model.clone(**fields), made.model.rules)
    variables = unflatten(flatten(without_ranges(whole)))
    like = jax.eval_shape(model.with_any_ranges, variables)
    kept = stored(from_layers(like, by_layer(whole)))
    ranges = model.ranges(with_stored(variables, kept))
    sample = place.data.sample(given.whole("images", IMAGES) or IMAGES, "train")
    batches = list(
        quantizing.calibration_batches(
            place.data, sample, mean=spec.mean, std=spec.std, check=stop.check
        )
    )
    say(f"quantising each of {len(ranges)} places alone, on {sample}")
    with Bar("place", check=stop.check) as bar:  # from the first place, which compiles
        return sensitivity(
            model.model, variables, batches, ranges, model.rules, progress=bar
        )


def _write(
    folder: Path,
    out: Path,
    given: Arguments,
    made: Trained,
    place: Evaluation,
    sample: Sample,
    result: dict[str, Any],
    costs: list[Cost],
) -> None:
    """Writes the new workdir and its report to a folder that will become `out`."""
    spec = made.spec
    before = made_run.config_before(given, made)
    before |= {"name": f"{before['name']}_quantized", "quant": spec.quant}
    report = folder / "report"
    report.mkdir()
    made_run.save(folder, made.variables[""])
    names = list(place.data.class_names)
    resume.record(folder, config.Section(before), names, spec.to_json(), [])
    listed = [cost._asdict() for cost in costs]
    result |= {"sensitivity": listed} if costs else {}
    (report / "quantize.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = {
        "weights": result["weights"],
        "quantised": ", ".join(f"{k} {v}" for k, v in result["quant"].items()),
        "places": result["quantised places"],
        "calibrated on": f"{result['data']}: {sample}",
    }
    for key, value in result["float"].items():
        rows[key] = f"float {value:.4f}, quantised {result['quantised'][key]:.4f}"
    banner("quantised", rows)
    text = f"# {out.name}\n\n" + "".join(f"- {k}: {v}\n" for k, v in rows.items())
    if costs:
        picture = write_sheet(report / "sensitivity.png", costs)
        text += f"\n{_table(costs)}\n![sensitivity]({picture.name})\n"
        say("most sensitive, quantised alone:")
        for cost in _ranked(costs)[:SHOWN]:
            say("  ".join(_cells(cost)))
    (report / "summary.md").write_text(text, "utf-8", "backslashreplace")


def _ranked(costs: list[Cost]) -> list[Cost]:
    """The most sensitive place first, everything together last."""
    return [*sorted(costs[:-1], key=lambda cost: cost.sqnr), costs[-1]]


def _cells(cost: Cost) -> tuple[str, ...]:
    return (
        cost.place,
        f"{cost.sqnr:.1f}",
        f"{cost.agreement:.2%}",
        f"{cost.loss:+.4f}",
    )


def _table(costs: list[Cost]) -> str:
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    lines += map(_cells, _ranked(costs))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

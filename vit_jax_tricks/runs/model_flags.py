"""Loads the trained model that a command line names.

Either --workdir=DIR, one of our runs, or --model=NAME with --weights=SOURCE.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.compress.quant import range_store
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.console import say
from vit_jax_tricks.data.decode import RESIZES
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.registry import lookup
from vit_jax_tricks.pretrained.load import load_weights
from vit_jax_tricks.pretrained.sources import classes_of, read_source
from vit_jax_tricks.pretrained.weights import Weights
from vit_jax_tricks.runs import model_spec, quantizing
from vit_jax_tricks.runs.model_spec import ModelSpec
from vit_jax_tricks.typing import Params


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model ready for pictures; the model of a quantised run is quantised.

    `variables` are keyed by the suffix of their metrics: "" and, if a run keeps
    averages and both are requested, "_ema".
    """

    spec: ModelSpec
    model: nn.Module | QuantizedModel
    variables: dict[str, Params]
    source: str


def load(given: Arguments, *, resize: str | None, both: bool = False) -> Trained:
    """Builds the model and loads its weights, printing the report.

    Args:
      given: flags `command.MODEL_VALUES` and the section `model`.
      resize: resampling of pictures unless --resize is given; None means the
        reference's, or the run's own.
      both: for a run with averages, also loads the plain weights.

    Raises:
      UserError: flags that contradict one another, and as `load_pretrained`.
    """
    resize = given.choice("resize", RESIZES, resize)
    ema = given.choice("ema", ("true", "false"))
    ema = None if ema is None else ema == "true"
    name, source = given.get("model"), given.get("weights")
    workdir = given.get("workdir")
    if workdir is not None:
        clash = [f"--{f}" for f in ("model", "weights", "num_classes") if given.get(f)]
        if clash:
            raise UserError(
                f"--workdir has its own model and weights; leave {clash[0]} out."
            )
        return _of_workdir(given, Path(workdir), ema, both)
    if name is None or source is None:
        raise UserError(
            "give --workdir=DIR, or --model=NAME with --weights=SOURCE (see --help)."
        )
    family = lookup(name).family.__name__
    weights = read_source(source, family, ema=ema)
    classes = given.whole("num_classes", classes_of(weights, family))
    if classes is None:
        raise UserError(
            f"{source} has no head, so it does not classify; use a model that does."
        )
    fields = given.literals("model")
    if "num_classes" in fields:
        raise UserError("--model.num_classes: type --num_classes=K.")
    spec = model_spec.named(name, resize=resize, num_classes=classes, **fields)
    model = spec.create()
    return Trained(spec, model, {"": _load(model, weights)}, weights.source)


def _of_workdir(
    given: Arguments, workdir: Path, ema: bool | None, both: bool
) -> Trained:
    spec = model_spec.read(workdir).override(**given.literals("model"))
    if resize := given.get("resize"):
        view = dataclasses.replace(spec.view, resize=resize)
        spec = dataclasses.replace(spec, view=view)
    model = spec.create()
    family = type(model).__name__
    weights = read_source(workdir, family, ema=ema)
    quantized = None if spec.quant is None else quantizing.quantized(model, spec.quant)
    variables = {"": _load(model, weights, quantized)}
    if both and ema is None and weights.averaged:
        weights = read_source(workdir, family, ema=False)
        variables = {"": _load(model, weights, quantized), "_ema": variables[""]}
    applied = model if quantized is None else quantized
    return Trained(spec, applied, variables, weights.source)


def _load(
    model: Any, weights: Weights, quantized: QuantizedModel | None = None
) -> Params:
    variables, report = load_weights(model, weights)
    say(str(report))
    if report.reset:
        raise UserError(
            f"{weights.source}: {report.unused[-1]}, so the head would be random; "
            "leave --num_classes out."
        )
    if quantized is None:
        return variables
    like = jax.eval_shape(quantized.with_any_ranges, variables)
    found = range_store.from_layers(like, weights.ranges or {})
    return range_store.with_stored(variables, range_store.stored(found))

"""Quantisation as configured by `config.quant`: rules, model and initial ranges."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from vit_jax_tricks.compress.quant.calibration import calibrate
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.compress.quant.range_store import without_ranges
from vit_jax_tricks.compress.quant.rules import Rule, standard_rules
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.errors import UserError, about, nearest
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.typing import Array, Float, Int


PATH = "config.quant"
IMAGES = 512  # calibration images, unless config.quant sets them
BATCH = 32  # images per batch


def rules_of(section: Mapping[str, Any]) -> tuple[Rule, ...] | None:
    """The rules of a section `config.quant`, or None if everything stays in float.

    Its own `rules` come first, then `compress.standard_rules`.

    Raises: UserError for unknown names, choices that exclude one another, and keys that
      would have no effect.
    """
    weights, activations = section["weights"], section["activations"]
    learned, more = section["learned"], section["rules"]
    observers = {
        "weight_observer": section["weight_observer"],
        "activation_observer": section["activation_observer"],
        "percentile": section["percentile"],
    }
    calibration = section["calibration"]
    if weights is None and activations is None and not more:
        given = observers | {"learned": learned or None, "calibration": calibration}
        for key, value in given.items():
            if value is not None:
                raise UserError(
                    f"{PATH}.{key}={value} does nothing while nothing is quantised; "
                    f"add --{PATH}.weights=int8_narrow --{PATH}.activations=int8."
                )
        return None
    for key, grid in (("weight", weights), ("activation", activations)):
        if grid is None and observers[f"{key}_observer"] is not None:
            raise UserError(
                f"{PATH}.{key}_observer does nothing without {PATH}.{key}s, the grid; "
                "leave it out."
            )
    percentile = observers["percentile"]
    if percentile is not None and observers["activation_observer"] != "percentile":
        raise UserError(
            f"{PATH}.percentile={percentile} applies only to "
            f"{PATH}.activation_observer=percentile; leave it out."
        )
    fields: dict[str, Any] = {} if percentile is None else {"percentile": percentile}
    weight = activation = None
    if weights is not None:
        if weights.startswith("uint"):
            raise UserError(
                f'{PATH}.weights="{weights}": weights have both signs; give '
                f"{weights[1:]}_narrow."
            )
        observer = observers["weight_observer"] or "min_max"
        weight = _spec(
            "weights",
            grid=weights,
            observer=observer,
            learned=learned,
            per_channel=True,
        )
    if activations is not None:
        observer = observers["activation_observer"] or "min_max"
        activation = _spec(
            "activations",
            grid=activations,
            observer=observer,
            learned=learned,
            symmetric=not activations.startswith("uint"),
            **fields,
        )
    return (*map(_rule, more), *standard_rules(weight, activation))


def _spec(key: str, **fields: Any) -> Spec:
    with about(f"{PATH}.{key}"):
        return Spec(**fields)


def _rule(given: Any) -> Rule:
    """Converts an entry of `config.quant.rules`: (regex, None or fields of a Spec)."""
    try:
        pattern, fields = given
        fields = None if fields is None else dict(fields)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{PATH}.rules: {given!r} is not (regex, None) or (regex, "
            "dict(grid='int8', ...))."
        ) from error
    if fields is None:
        return str(pattern), None
    known = [field.name for field in dataclasses.fields(Spec)]
    for key in fields:
        if key not in known:
            hint = nearest(key, known)
            raise UserError(f'{PATH}.rules, "{pattern}": "{key}" is unknown.{hint}')
    return str(pattern), _spec(f'rules, "{pattern}"', **fields)


def images_of(section: Mapping[str, Any]) -> int:
    """Number of images for calibration.

    Raises: UserError for less than one.
    """
    count = section["calibration"]
    if count is not None and count < 1:
        raise UserError(f"{PATH}.calibration={count}: expected at least 1.")
    return count or IMAGES


def quantized(model: nn.Module, section: Mapping[str, Any]) -> QuantizedModel | None:
    """The model quantised as the section says, or None if it stays in float.

    Raises: UserError as `rules_of` does.
    """
    rules = rules_of(section)
    return None if rules is None else QuantizedModel(model, rules)


def calibration_batches(
    source: Data,
    images: int | Sample,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[tuple[Float[Array, "b h w c"], Int[Array, "b"]]]:
    """Normalised training images with the evaluation view, and their labels.

    Args:
      source: the data.
      images: a sample, or the number to draw over all classes with `seed`; all of the
        split if it has fewer.
      mean, std: the model's normalisation.
      seed: seed of the draw.
      progress: called before each batch and at the end; may raise to stop.
    """
    drawn = isinstance(images, Sample)
    sample = images if drawn else source.sample(images, "train", seed)
    for batch in model_inputs(
        source, sample, batch_size=BATCH, mean=mean, std=std, progress=progress
    ):
        yield batch["image"], batch["label"]


def calibrated(
    model: QuantizedModel,
    variables: Mapping[str, Any],
    source: Data,
    sample: Sample,
    **options: Any,
) -> dict[str, Any]:
    """The variables with ranges from `calibration_batches`, which takes `options`."""
    variables = without_ranges(variables)
    batches = calibration_batches(source, sample, **options)
    images = (images for images, _ in batches)
    ranges = calibrate(model.model, variables, images, model.rules)
    return model.with_ranges(variables, ranges)

"""Loads a trained model: a run, or weights for a model by name."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.compress.quant import range_store
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.data.decode import RESIZES
from vit_jax_tricks.errors import Argument, UserError, nearest
from vit_jax_tricks.models.registry import lookup
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.pretrained.load import load_weights
from vit_jax_tricks.pretrained.load_report import LoadReport
from vit_jax_tricks.pretrained.rules import key_names
from vit_jax_tricks.pretrained.sources import classes_of, read_source
from vit_jax_tricks.pretrained.weights import Weights
from vit_jax_tricks.runs import model_spec, quant_config
from vit_jax_tricks.runs.model_spec import ModelSpec
from vit_jax_tricks.typing import Params


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its weights and the preparation of its pictures.

    Attributes:
      spec: the model's name, fields, normalisation, view and class names.
      model: applies the variables; that of a quantised run is quantised.
      variables: keyed by the suffix of their metrics: "" and, if a run keeps averages
        and both were requested, "_ema".
      source: the origin of the weights, for people.
      workdir: the run that the model is from, or None.
      reports: the load report of each entry of `variables`.
    """

    spec: ModelSpec
    model: nn.Module | QuantizedModel
    variables: dict[str, Params]
    source: str
    workdir: Path | None = None
    reports: tuple[LoadReport, ...] = ()

    @property
    def num_classes(self) -> int:
        return self.spec.fields["num_classes"]


def load(
    source: str | os.PathLike,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    dtype: Any = None,
    resize: str | None = None,
    ema: bool | None = None,
    both: bool = False,
) -> Trained:
    """Loads a run, or weights for the model that `model` names.

    Args:
      source: the workdir of a run. With `model`, a `.safetensors`, `.npz` or `.pth`
        file, a workdir, or `hub:owner/name`.
      model: a name of `list_models()`; by default the run's model.
      num_classes: classes of the head; by default those of the weights.
      overrides: fields of the model, such as `{"img_size": 384}`.
      dtype: the compute dtype; by default the run's or the model's.
      resize: resampling of pictures, `area` or `pil_bicubic`; by default the run's, or
        the reference's.
      ema: the averaged weights (True), the plain ones (False), or the averaged ones if
        there are any (None).
      both: for a run with averages, also loads the plain weights.

    Raises:
      UserError: no such run, a model without a head, arguments that exclude one
        another, and as `load_pretrained`.

    Example:
      trained = load("runs/digits")
      logits, _ = trained.model.apply(trained.variables[""], images, train=False)
    """
    fields = dict(overrides or {})
    if "num_classes" in fields:
        raise UserError(
            "the number of classes is not an override; give ",
            Argument("num_classes"),
            f"={fields['num_classes']}.",
        )
    if dtype is not None:
        fields["dtype"] = jnp.dtype(dtype).name
    if resize is not None and resize not in RESIZES:
        hint = nearest(str(resize), RESIZES)
        raise UserError(Argument("resize"), f"={resize}: unknown.{hint}")
    if model is None:
        return _of_run(source, num_classes, fields, resize, ema, both)
    names = key_names(lookup(model).family)
    weights = read_source(paths.weights(source), names, ema=ema)
    classes = num_classes
    if classes is None:
        classes = classes_of(weights, names)
    if classes is None:
        raise UserError(
            f"{source} has no head, so it does not classify; use a model that does."
        )
    spec = model_spec.named(model, resize=resize, num_classes=classes, **fields)
    made = spec.create()
    variables, report = _load(made, weights)
    return Trained(spec, made, {"": variables}, weights.source, None, (report,))


def checksum(variables: Params) -> str:
    """SHA-256 of all parameters and statistics, by name."""
    total = hashlib.sha256()
    for path, leaf in sorted(flatten(variables).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(array.view(np.uint8).reshape(-1).data)
    return total.hexdigest()


def _of_run(
    source: str | os.PathLike,
    num_classes: int | None,
    fields: dict[str, Any],
    resize: str | None,
    ema: bool | None,
    both: bool,
) -> Trained:
    if num_classes is not None:
        raise UserError(
            f"{source} has its own classes; leave ", Argument("num_classes"), " out."
        )
    if os.fspath(source).startswith(paths.HUB) or Path(source).is_file():
        raise UserError(
            f"{source} holds weights, not a run; also give ",
            Argument("model"),
            "=NAME, a name of list_models().",
        )
    workdir = paths.absolute(source)
    spec = model_spec.read(workdir).override(**fields)
    if resize is not None:
        view = dataclasses.replace(spec.view, resize=resize)
        spec = dataclasses.replace(spec, view=view)
    model = spec.create()
    names = key_names(type(model))
    weights = read_source(workdir, names, ema=ema)
    quantized = (
        None if spec.quant is None else quant_config.quantized(model, spec.quant)
    )
    variables, report = _load(model, weights, quantized)
    every, reports = {"": variables}, (report,)
    if both and ema is None and weights.averaged:
        weights = read_source(workdir, names, ema=False)
        plain, report = _load(model, weights, quantized)
        every, reports = {"": plain, "_ema": variables}, (*reports, report)
    applied = model if quantized is None else quantized
    return Trained(spec, applied, every, weights.source, workdir, reports)


def _load(
    model: Any, weights: Weights, quantized: QuantizedModel | None = None
) -> tuple[Params, LoadReport]:
    variables, report = load_weights(model, weights)
    if report.reset:
        raise UserError(
            f"{weights.source}: {report.unused[-1]}, so the head would be random; "
            "leave ",
            Argument("num_classes"),
            " out.",
        )
    if quantized is None:
        return variables, report
    like = jax.eval_shape(quantized.with_any_ranges, variables)
    found = range_store.from_layers(like, weights.ranges or {})
    stored = range_store.stored(found)
    return range_store.with_stored(variables, stored), report

"""Reads weights of our own runs: the newest intact checkpoint of a workdir."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.compress.quant import range_store
from vit_jax_tricks.config import tuples
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.models.registry import create_model
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.pretrained.weights import Weights
from vit_jax_tricks.storage import checkpoint
from vit_jax_tricks.storage.manifest import DamagedError, step_folders


def read_workdir(path: Path, *, ema: bool | None = None) -> Weights:
    """Reads the parameters, statistics and ranges of a run, by our own paths.

    Args:
      path: the workdir.
      ema: the moving averages (True), the parameters themselves (False), or the
        averages if the run keeps them (None).

    Raises:
      UserError: no intact checkpoint, or no averages although requested.
    """
    step, parts = newest(path)
    averages = parts.pop("ema", None)
    if ema and averages is None:
        raise UserError(
            f"the run in {path} keeps no averages; leave ",
            Argument("ema"),
            " out, or train with --config.ema.decay=0.9999.",
        )
    averaged = averages is not None and ema is not False
    chosen = averages if averages is not None and averaged else parts
    ranges = None
    if range_store.KEY in chosen["params"]:
        kept = range_store.by_layer(chosen)
        ranges = {name: np.asarray(array) for name, array in kept.items()}
        chosen = range_store.without_ranges(chosen)
    arrays = {name: np.asarray(array) for name, array in flatten(chosen).items()}
    return Weights(
        f"{path}, step {step}{', averaged' if averaged else ''}",
        arrays,
        native=True,
        averaged=averaged,
        ranges=ranges,
        model=_model(path),
    )


def _model(path: Path) -> Any:
    """The run's model, if its `model.json` states it."""
    try:
        spec = json.loads((paths.absolute(path) / "model.json").read_text())
        return create_model(spec["name"], **tuples(spec["fields"]))
    except (OSError, ValueError, KeyError, TypeError):  # UserError is a ValueError
        return None


def newest(path: Path) -> tuple[int, dict]:
    """Step and `params`, `batch_stats` and `ema` of the newest intact checkpoint."""
    folder = paths.absolute(path) / "checkpoints"
    steps = step_folders(folder)
    if not steps:
        raise UserError(
            f"{path} holds no checkpoints; give the workdir of a run, or a weight file."
        )
    for step in sorted(steps, reverse=True):
        try:
            return step, checkpoint.read_variables(steps[step])
        except DamagedError as error:
            say(f"checkpoint {step} is damaged ({error}); the one before it is used")
    raise UserError(f"every checkpoint in {folder} is damaged; restore a copy.")

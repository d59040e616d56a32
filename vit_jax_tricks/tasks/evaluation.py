"""Measures a trained model, or the run of any task, on whole splits of data."""

import os
from typing import Any

import jax
import numpy as np

from vit_jax_tricks import config, paths, sharding, tasks
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.pretrained.workdir import newest
from vit_jax_tricks.runs import evaluation
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.trained import Trained, load
from vit_jax_tricks.state import variables
from vit_jax_tricks.typing import Params


def evaluate(
    trained: Trained | str | os.PathLike,
    data: Data | str | None = None,
    *,
    split: str = "test",
    batch_size: int = 256,
    progress: Progress = silent,
) -> dict[str, int | float]:
    """The metrics of a split, counting every example exactly once.

    Args:
      trained: a model from `load`, or the workdir of a run, whose plain and averaged
        weights are then both measured.
      data: as `open_data` takes it; by default the run's own. Only image classifiers
        are measured on other data.
      split: `test`, `train` with the evaluation view, or `all`.
      batch_size: examples per batch on all devices; rounded up to fit the devices.
      progress: called before each batch and at the end; may raise to stop.

    Returns:
      count and the metrics of the run's task: for image classifiers accuracy, loss
        (nats) and, for more than 5 classes, accuracy_top5, in 0..1. Those of averages
        end in "_ema".

    Raises:
      UserError: an unknown split, and as `load` and `open_data`.

    Example:
      runs.evaluate("runs/digits")["accuracy"]
    """
    evaluation.check_options(split, batch_size)
    options: Any = dict(split=split, batch_size=batch_size, progress=progress)
    if isinstance(trained, Trained):
        return evaluation.evaluate(trained, data, **options)
    workdir = paths.absolute(trained)
    name = config.task_of_run(workdir)
    if name == tasks.DEFAULT:
        return evaluation.evaluate(load(trained, both=True), data, **options)
    if data is not None:
        raise UserError(
            Argument("data"),
            f"={data}: the task {name} of {workdir} brings its own data; leave it out.",
        )
    task = tasks.build(config.section_of_run(workdir), sharding.make_mesh())
    _, parts = newest(workdir)
    return evaluation.on_split(task, _fitted(parts, task, workdir), **options)


def _fitted(parts: dict[str, Any], task: Any, workdir: Any) -> dict[str, Params]:
    """The variables of a checkpoint by suffix, in the structure of the task's own."""
    like = jax.eval_shape(task.init, jax.random.key(0))
    found = {"": parts} | ({"_ema": parts["ema"]} if "ema" in parts else {})
    out = {}
    for suffix, part in found.items():
        read = variables(part["params"], part.get("batch_stats", {}))
        if jax.tree.map(np.shape, read) != jax.tree.map(lambda x: x.shape, like):
            raise UserError(
                f"{workdir} holds the parameters of another task than its config.json "
                "describes; restore the file."
            )
        out[suffix] = read
    return out

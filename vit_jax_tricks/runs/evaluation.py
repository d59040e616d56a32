"""Measures a trained model on whole splits of data."""

import functools
import itertools
import os

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax_tricks import sharding
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError, nearest
from vit_jax_tricks.runs.data import open_data
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.progress import Progress, silent
from vit_jax_tricks.runs.scores import eval_step, means, tally
from vit_jax_tricks.runs.trained import Trained, load


SPLITS = {"test": ("test",), "train": ("train",), "all": ("train", "test")}


def evaluate(
    trained: Trained | str | os.PathLike,
    data: Data | str | None = None,
    *,
    split: str = "test",
    batch_size: int = 256,
    progress: Progress = silent,
) -> dict[str, int | float]:
    """Accuracy and loss on a split, counting every example exactly once.

    Args:
      trained: a model from `load`, or the workdir of a run, whose plain and averaged
        weights are then both measured.
      data: as `open_data` takes it; by default the run's own.
      split: `test`, `train` with the evaluation view, or `all`.
      batch_size: examples per batch on all devices; rounded up to fit the devices.
      progress: called before each batch and at the end; may raise to stop.

    Returns:
      count, accuracy, loss (nats) and, for more than 5 classes, accuracy_top5, in 0..1;
        those of averages end in "_ema".

    Raises:
      UserError: an unknown split, and as `load` and `open_data`.

    Example:
      runs.evaluate("runs/digits")["accuracy"]
    """
    if split not in SPLITS:
        raise UserError(
            Argument("split"), f"={split}: unknown.{nearest(split, SPLITS)}"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(
            Argument("batch_size"), f"={batch_size}: expected a whole number >= 1."
        )
    if not isinstance(trained, Trained):
        trained = load(trained, both=True)
    source, splits = open_data(trained, data), SPLITS[split]
    mesh = sharding.make_mesh()
    pieces = sharding.batch_divisor(mesh)
    batch_size = -(-batch_size // pieces) * pieces
    spec, whole = trained.spec, NamedSharding(mesh, PartitionSpec())
    step = jax.jit(functools.partial(eval_step, model=trained.model))
    with jax.set_mesh(mesh):
        batches = (
            model_inputs(
                source,
                name,
                batch_size=batch_size,
                mean=spec.mean,
                std=spec.std,
                sharding=sharding.batch_sharding(mesh),
                progress=progress,
            )
            for name in splits
        )
        variables = jax.device_put(trained.variables, whole)
        totals = tally(itertools.chain.from_iterable(batches), step, variables)
    count = int(next(iter(totals.values()))["count"])
    return {"count": count, **means(totals, source.num_classes)}

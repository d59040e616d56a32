"""Measures variables on whole splits of data."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax_tricks import sharding
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError, nearest
from vit_jax_tricks.runs.data import open_data
from vit_jax_tricks.runs.progress import Progress, UntilReady, silent
from vit_jax_tricks.runs.scores import Measure, classifying, measured
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.typing import Params


SPLITS = {"test": ("test",), "train": ("train",), "all": ("train", "test")}


def evaluate(
    trained: Trained, data: Data | str | None = None, **options: Any
) -> dict[str, int | float]:
    """Accuracy and loss of an image classifier, with the options of `on_split`.

    Raises: UserError as `open_data` and `on_split`.
    """
    source, spec = open_data(trained, data), trained.spec
    measure = classifying(trained.model, source, mean=spec.mean, std=spec.std)
    return on_split(measure, trained.variables, **options)


def on_split(
    measure: Measure,
    variables: Mapping[str, Params],
    *,
    split: str = "test",
    batch_size: int = 256,
    progress: Progress = silent,
) -> dict[str, int | float]:
    """The metrics of `measured` on a split, counting every example exactly once.

    Args:
      measure: gives batches, sums and means.
      variables: by the suffix of their metrics.
      split: `test`, `train` with the evaluation view, or `all`.
      batch_size: examples per batch on all devices; rounded up to fit the devices.
      progress: called before each batch and at the end; may raise to stop.

    Raises:
      UserError: an unknown split or an invalid batch size.
    """
    check_options(split, batch_size)
    mesh = sharding.make_mesh()
    pieces = sharding.batch_divisor(mesh)
    batch_size = -(-batch_size // pieces) * pieces
    whole = NamedSharding(mesh, PartitionSpec())
    step, until_ready = jax.jit(measure.evaluate), UntilReady(progress)
    with jax.set_mesh(mesh):
        batches = (
            measure.eval_batches(
                name,
                batch_size=batch_size,
                sharding=sharding.batch_sharding(mesh),
                progress=until_ready,
            )
            for name in SPLITS[split]
        )
        placed = jax.device_put(dict(variables), whole)
        every = itertools.chain.from_iterable(batches)
        found = measured(measure, every, placed, step)
        until_ready.ready()
    return {**found, "count": int(found["count"])}


def check_options(split: str, batch_size: int) -> None:
    """Raises UserError for an unknown split or an invalid batch size."""
    if split not in SPLITS:
        raise UserError(
            Argument("split"), f"={split}: unknown.{nearest(split, SPLITS)}"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(
            Argument("batch_size"), f"={batch_size}: expected a whole number >= 1."
        )

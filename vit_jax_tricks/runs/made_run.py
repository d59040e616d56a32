"""Creates workdirs from a trained model, for use like any other run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks import config, paths
from vit_jax_tricks.console import say
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.runs import model_spec
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.state import TrainState
from vit_jax_tricks.storage.checkpoint import Checkpointer
from vit_jax_tricks.storage.lock import locked
from vit_jax_tricks.typing import Params


DECIDED = ("num_classes", "dtype")  # fields that data and config.dtype set
PARTIAL = ".partial"  # left by a killed command, and cleared by the next one


def check_new(out: str | os.PathLike) -> Path:
    """The absolute path of a folder that does not exist or is empty.

    Raises: UserError for any other.
    """
    path = paths.absolute(out)
    held = path.exists()
    if path.is_dir():
        held = any(entry.name != PARTIAL for entry in path.iterdir())
    if held:
        raise UserError(
            Argument("out"),
            f"={path} holds something already; give a new folder. Nothing was changed.",
        )
    return path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields a folder that becomes `out` at the end; after an error nothing is left.

    It is created immediately, so that an unwritable place is found before the work
    starts, and only one command at a time uses it.

    Raises:
      UserError: the place cannot be written, or another command uses it.
    """
    there = out.is_dir()  # and empty; it may be a mount point
    place = out / PARTIAL if there else out.with_name(f".{out.name}{PARTIAL}")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            Argument("out"),
            f"={out} cannot be written ({error.strerror}); give another folder.",
        ) from error
    made = place / "made"
    try:
        with locked(place, "give another folder"):
            shutil.rmtree(made, ignore_errors=True)
            try:
                made.mkdir()
                yield made
                if there:
                    for entry in sorted(made.iterdir()):
                        entry.rename(out / entry.name)
                else:
                    made.rename(out)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    finally:
        with suppress(OSError):
            place.rmdir()


def check_float(trained: Trained) -> None:
    """Raises UserError for a quantised model."""
    if trained.spec.quant is not None:
        raise UserError(
            f"{trained.source} is quantised; give the float run that it was made from."
        )


def config_before(trained: Trained, source: Data) -> dict[str, Any]:
    """The run's config, or DeiT's recipe for other weights, with the model's fields.

    Args:
      trained: a run, or other weights.
      source: the data that the recipe names.
    """
    fields = {k: v for k, v in trained.spec.fields.items() if k not in DECIDED}
    if trained.workdir is None:
        recipe = config.config_dir() / "deit_s.py"
        argument = config.argument("data", source.name)
        before = config.load(f"{recipe}:{argument}").to_dict()
        kept = {k: v for k, v in source.arguments.items() if k in before["data"]}
        before["data"] |= kept
        return before | {"model": {"name": trained.spec.name, **fields}}
    before = config.of_run(trained.workdir).to_dict()
    own = model_spec.read(trained.workdir).fields
    changed = {k: v for k, v in fields.items() if k not in own or own[k] != v}
    before["model"] |= changed
    return before


def save(out: str | Path, variables: Params) -> None:
    """Saves the weights as a checkpoint of step 0, without an optimiser.

    Raises: UserError for a remote path, or a place that cannot be written.
    """
    folder = paths.absolute(out) / "checkpoints"
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        step=zero,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        ema=None,
        opt_state={},
        key=jax.random.key(0),
        skipped=zero,
        streak=zero,
    )
    checkpointer = Checkpointer(folder, keep=2, say=say)
    try:
        checkpointer.save(state, {})
    finally:
        checkpointer.close()

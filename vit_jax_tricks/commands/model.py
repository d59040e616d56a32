"""The trained model that a command line names.

Either --workdir=DIR, one of our runs, or --model=NAME with --weights=SOURCE.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vit_jax_tricks import runs
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError, spelled
from vit_jax_tricks.runs import made_run
from vit_jax_tricks.runs.trained import Trained


FIELDS = ("img_size", "in_chans")  # of the model, that errors tell to override


@contextlib.contextmanager
def flags(prefix: str = "--", fields: str = "--model.") -> Iterator[None]:
    """Spells arguments in errors as flags, and fields of the model with `fields`."""
    with spelled(prefix, **{name: f"{fields}{name}" for name in FIELDS}):
        yield


def workdir_flag(prefix: str) -> str:
    """The flag of the workdir: `--workdir`, or `--teacher` beside `--teacher.ema`."""
    return f"{prefix}workdir" if prefix == "--" else prefix.removesuffix(".")


def load(
    given: Arguments, *, resize: str | None, both: bool = False, prefix: str = "--"
) -> Trained:
    """`runs.load` of what a command line names, printing the load report.

    Args:
      given: flags `command.MODEL_VALUES` and the section `model`.
      resize: resampling of pictures for other weights, unless --resize is given; None
        means the reference's.
      both: for a run with averages, also loads the plain weights.
      prefix: of the flags in errors.

    Raises:
      UserError: flags that contradict one another, and as `runs.load`.
    """
    name, weights = given.get("model"), given.get("weights")
    workdir, flag = given.get("workdir"), workdir_flag(prefix)
    if workdir is not None:
        clash = [f for f in ("model", "weights", "num_classes") if given.get(f)]
        if clash:
            raise UserError(
                f"{flag} has its own model and weights; leave {prefix}{clash[0]} out."
            )
        resize = None
    elif name is None or weights is None:
        raise UserError(
            f"give {flag}=DIR, or {prefix}model=NAME with "
            f"{prefix}weights=SOURCE (see --help)."
        )
    ema = given.choice("ema", ("true", "false"))
    with flags(prefix, f"{prefix}model."):
        trained = runs.load(
            weights if workdir is None else workdir,
            model=name,
            num_classes=given.whole("num_classes", None),
            overrides=given.literals("model"),
            resize=given.get("resize", resize),
            ema=None if ema is None else ema == "true",
            both=both,
        )
    for report in trained.reports:
        say(str(report))
    return trained


def new_folder(given: Arguments, suffix: str) -> Path:
    """The new, still empty workdir: --out, or else the run's with `_suffix`."""
    workdir, out = given.get("workdir"), given.get("out")
    if out is None and workdir is None:
        raise UserError("give --out=DIR, a folder for the new model.")
    with flags():
        return made_run.check_new(out or f"{workdir}_{suffix}")

"""The trained model that a command line names.

Either --workdir=DIR, one of our runs, or --model=NAME with --weights=SOURCE.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vit_jax_tricks import runs
from vit_jax_tricks.commands import groups
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
    given: groups.Model, *, resize: str | None, both: bool = False, prefix: str = "--"
) -> Trained:
    """`runs.load` of what a command line names, printing the load report.

    Args:
      given: the options.
      resize: resampling of pictures for other weights, unless --resize is given; None
        means the reference's.
      both: for a run with averages, also loads the plain weights.
      prefix: of the flags in errors.

    Raises:
      UserError: flags that contradict one another, and as `runs.load`.
    """
    source = given.workdir or given.weights
    if source is None or (given.workdir is None and given.name is None):
        flag = workdir_flag(prefix)
        raise UserError(
            f"give {flag}=DIR, or {prefix}model=NAME with "
            f"{prefix}weights=SOURCE (see --help)."
        )
    if given.workdir is not None:
        resize = None
    with flags(prefix, f"{prefix}model."):
        trained = runs.load(
            source,
            model=given.name,
            num_classes=given.num_classes,
            overrides=given.fields,
            resize=given.resize or resize,
            ema=given.ema,
            both=both,
        )
    for report in trained.reports:
        say(str(report))
    return trained


def new_folder(out: Path | None, workdir: Path | None, suffix: str) -> Path:
    """The new, still empty workdir: --out, or else the run's with `_suffix`."""
    if out is None and workdir is None:
        raise UserError("give --out=DIR, a folder for the new model.")
    with flags():
        return made_run.check_new(out or f"{workdir}_{suffix}")

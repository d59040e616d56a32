"""Writes files atomically: they appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_jax_tricks.errors import Argument, UserError


@contextmanager
def staged(*paths: Path) -> Iterator[list[Path]]:
    """Yields temporary paths to write to; they are renamed to `paths` at the end.

    After an error none of the temporary files remains.
    """
    partials = [_partial(path) for path in paths]
    try:
        yield partials
        for partial, path in zip(partials, paths, strict=True):
            partial.replace(path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raises UserError if the file cannot be written; leaves its folder unchanged."""
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UserError(
            Argument("out"),
            f"={path} cannot be written ({error.strerror}); give another path.",
        ) from error


def _partial(path: Path) -> Path:
    """The temporary name, unique to this process in case two export to one name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")

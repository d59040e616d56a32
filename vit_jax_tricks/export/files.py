"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_jax_tricks.errors import UserError


@contextmanager
def staged(*paths: Path) -> Iterator[list[Path]]:
    """Other names to write the files under; they get their own at the end.

    After an error none of them is left.
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
    """Raises UserError where the file cannot be written; leaves its folder as it is."""
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UserError(
            f"--out={path} cannot be written ({error.strerror}); give another place."
        ) from error


def _partial(path: Path) -> Path:
    """Of this process, as two may export to one name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")

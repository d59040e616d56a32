"""Gives a folder with any name a path without special characters.

Orbax and TensorStore interpret paths as patterns and URLs, so `[`, `*`, `?`, `%` or a
line break in a path hides the files below it.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vit_jax_tricks.errors import UserError


PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
PLACES = (tempfile.gettempdir, lambda: "/tmp", lambda: "/var/tmp", lambda: "/dev/shm")


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """An absolute path to the folder without special characters, while inside.

    This is the folder's own path if that is plain, otherwise a symbolic link in a
    temporary folder.

    Raises: UserError if no temporary folder has a plain name.
    """
    folder = Path(os.path.abspath(folder))
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vit_jax_tricks_", dir=_place()) as place:
        link = Path(place) / "link"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _place() -> str:
    for given in PLACES:
        place = given()
        if PLAIN.fullmatch(place) and os.access(place, os.W_OK | os.X_OK):
            return place
    raise UserError(
        f"TMPDIR={tempfile.gettempdir()}: expected a writable folder whose path has "
        "only letters, digits, dots, dashes and underscores."
    )

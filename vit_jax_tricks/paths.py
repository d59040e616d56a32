"""Makes paths absolute, as people type them, in one place.

Commands and functions call these functions once, where a path comes in. Below that
point every path is absolute, so that it means the same from any folder and in any
process.
"""

import os
import re
from pathlib import Path

from vit_jax_tricks.errors import UserError


# scheme://, and what a Path leaves of it.
SCHEMES = "gs|gcs|s3[an]?|r2|oss|hdfs|webhdfs|abfss?|wasbs?|adl|az|dbfs|hf|https?|s?ftp"
REMOTE = rf"(?i:[A-Z][A-Z0-9+.-]*://|({SCHEMES}|file):/)"
HUB = "hub:"


def local(text: str | os.PathLike, flag: str = "") -> Path:
    """A path on this machine, with `~` expanded.

    Args:
      text: as typed.
      flag: the prefix in messages, such as `--workdir=`.

    Raises:
      UserError: a remote path, or one that no file can have.
    """
    typed = os.fspath(text)
    if re.match(REMOTE, typed):
        raise UserError(
            f"{flag}{typed}: remote paths are neither read nor written; copy the files "
            "here, or mount the remote folder, and give its local path."
        )
    if typed.startswith(HUB):
        raise UserError(
            f"{flag}{typed}: expected a path; only weights are read from the hub, by "
            "--weights=hub:owner/name, or config.teacher.sources=MODEL@hub:owner/name."
        )
    if not typed or "\0" in typed:
        raise UserError(f"{flag}{typed!r}: expected a path.")
    try:
        return Path(typed).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag}{typed}: there is no such home folder.") from error


def absolute(text: str | os.PathLike, flag: str = "") -> Path:
    """`local`, made absolute; links and `..` are kept. Raises UserError as `local`."""
    return local(text, flag).absolute()


def utf8(path: Path, flag: str = "") -> Path:
    """Returns the path if array_record can handle its name.

    Raises: UserError if it is not valid UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{flag}{path}: records need folders whose names are valid UTF-8; rename "
            "the folder, or give another one."
        ) from error
    return path


def weights(text: str | os.PathLike, flag: str = "") -> str:
    """A source of weights: `hub:owner/name` as is, a file or workdir made absolute."""
    typed = os.fspath(text)
    return typed if typed.startswith(HUB) else str(absolute(typed, flag))


def data(text: str, flag: str = "") -> str:
    """The name of a data set; the path in `folder:PATH` becomes absolute."""
    kind, colon, path = text.partition(":")
    if kind == "folder" and path:
        return f"{kind}{colon}{absolute(path, f'{flag}{kind}{colon}')}"
    if re.match(REMOTE, text):
        local(text, flag)
    return text


def teacher(text: str, flag: str = "") -> tuple[str | None, str]:
    """A teacher: (None, workdir), or the name and the weights of NAME@WEIGHTS.

    An existing folder is a workdir, whatever its name.
    """
    name, at, source = text.partition("@")
    if at and not absolute(text, flag).is_dir():
        return name, weights(source, f"{flag}{name}@")
    return None, str(absolute(text, flag))


def teacher_text(text: str, flag: str = "") -> str:
    """`teacher` as one string, with its path absolute."""
    name, path = teacher(text, flag)
    return path if name is None else f"{name}@{path}"

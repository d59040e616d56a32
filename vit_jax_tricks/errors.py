"""Errors that users can cause: a one-line `UserError`, never a traceback."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class Argument(str):
    """The name of a function's argument in a `UserError`, for `spelled`."""


class UserError(ValueError):
    """States what was given, what was expected and what to type instead.

    A message may have several parts: `UserError("leave ", Argument("ema"), " out.")`.
    """

    def __str__(self) -> str:
        return "".join(map(str, self.args))


@contextlib.contextmanager
def spelled(prefix: str = "", **names: str) -> Iterator[None]:
    """Spells the arguments named in errors from inside as the user types them.

    Args:
      prefix: put before a name, such as "--".
      names: other spellings, by argument.
    """
    try:
        yield
    except UserError as error:
        error.args = tuple(
            names.get(part, f"{prefix}{part}") if isinstance(part, Argument) else part
            for part in error.args
        )
        raise


@contextlib.contextmanager
def about(place: str) -> Iterator[None]:
    """Puts a place, such as `config.teacher.pack`, before errors from inside."""
    try:
        yield
    except UserError as error:
        error.args = (f"{place}: ", *error.args)
        raise


def nearest(given: str, valid: Iterable[str]) -> str:
    """A ' Did you mean "x"?' hint, or all valid names if none is close."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        return f' Did you mean "{near[0]}"?'
    return "" if len(names) > 40 else f" Valid: {', '.join(names) or 'none'}."

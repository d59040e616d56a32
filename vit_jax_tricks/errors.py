"""Errors that users can cause: a one-line `UserError`, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """States what was given, what was expected and what to type instead."""


def nearest(given: str, valid: Iterable[str]) -> str:
    """A ' Did you mean "x"?' hint, or all valid names if none is close."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        return f' Did you mean "{near[0]}"?'
    return "" if len(names) > 40 else f" Valid: {', '.join(names) or 'none'}."

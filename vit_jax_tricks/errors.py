"""What a user can cause is a `UserError`: one clear line, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says what was given, what was expected and what to type instead."""


def nearest(given: str, valid: Iterable[str]) -> str:
    """A ' Did you mean "x"?' hint, or the list of valid names when nothing is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Valid: {', '.join(names) or 'none'}."

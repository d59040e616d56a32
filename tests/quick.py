"""What the quick suite leaves to the slow one."""

from collections.abc import Sequence
from typing import Any

import pytest


def sparse(cases: Sequence[Any], *, every: int) -> list[Any]:
    """All cases; those between every so many carry the marker slow.

    A case that is a `pytest.param` keeps its own marks.
    """

    def slow(case: Any) -> Any:
        if hasattr(case, "marks"):
            marks = (*case.marks, pytest.mark.slow)
            return pytest.param(*case.values, marks=marks, id=case.id)
        return pytest.param(case, marks=pytest.mark.slow)

    return [slow(case) if i % every else case for i, case in enumerate(cases)]

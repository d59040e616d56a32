"""What the quick suite leaves to the slow one."""

from collections.abc import Sequence
from typing import Any

import pytest


def sparse(cases: Sequence[Any], *, every: int) -> list[Any]:
    """All cases; those between every so many carry the marker slow."""
    return [
        pytest.param(case, marks=pytest.mark.slow) if i % every else case
        for i, case in enumerate(cases)
    ]

"""Symbolic sizes, which jaxtyping cannot broadcast ("*#b" against "batch")."""

import jaxtyping
import pytest


@pytest.fixture
def symbolic_sizes():
    """Run a test without the checks of shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

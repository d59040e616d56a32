"""float64 for the tests that ask for it by their parameter `dtype`."""

import jax
import pytest


@pytest.fixture(autouse=True)
def precision(request):
    """float64 is on in those tests, and only those, whose `dtype` is float64."""
    params = getattr(request.node, "callspec", None)
    with jax.enable_x64(bool(params and params.params.get("dtype") == "float64")):
        yield

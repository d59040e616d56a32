"""The notebooks run from top to bottom, with JAX as their readers have it."""

import json
from pathlib import Path

import jax
import matplotlib
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(Path("notebooks").glob("*.ipynb")), ids=str)
def test_every_cell_runs(path):
    matplotlib.use("agg")
    notebook = json.loads(path.read_text())
    names = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for cell in cells:
            assert not cell["outputs"], "clear the outputs before committing"
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
    matplotlib.pyplot.close("all")

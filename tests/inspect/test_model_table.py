"""The table in docs/models.md: complete, and with the numbers of the code."""

from pathlib import Path

import pytest

from vit_jax_tricks.inspect.model_table import HEADER, rows
from vit_jax_tricks.models import list_models
from vit_jax_tricks.models.registry import lookup


TABLE = Path(__file__).parents[2] / "docs" / "models.md"
AGAIN = "run `python -m vit_jax_tricks.inspect models --output=docs/models.md` again"


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.fixture(scope="module")
def table():
    text = TABLE.read_text()
    assert text.startswith(HEADER), AGAIN
    return {cells(row)[0]: cells(row) for row in text[len(HEADER) :].splitlines()}


def test_every_registered_model_is_in_the_table(table):
    assert list(table) == list_models(), AGAIN


@pytest.mark.parametrize("name", list_models())
def test_its_row_says_what_the_registry_says(name, table):
    entry = lookup(name)
    _, parameters, _, _, classes, top1, source, golden, _ = table[name]
    assert parameters == f"{entry.parameters:,}", AGAIN
    assert classes == str(entry.parameters_classes)
    assert top1 == str(entry.top1 or "")
    assert (source, golden) == (entry.source, entry.golden)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_small_patch16_LS"])
def test_rows_are_reproduced(name, table):
    assert cells(next(rows([name], {})))[:-1] == table[name][:-1], AGAIN


def test_no_forward_takes_long_to_compile(table):
    """A measured column: seconds on two idle cores; "not run" is not a number."""
    seconds = [float(row[-1]) for row in table.values() if row[-1] != "not run"]
    assert seconds
    assert max(seconds) < 30

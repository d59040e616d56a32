"""Method cards: complete, on one page. Their code runs in `test_readme.py`."""

import re
from pathlib import Path

import pytest
import shell_blocks


CARDS = sorted(Path("docs/tricks").glob("*.md"))
FIELDS = (
    "What",
    "When to use it",
    "Config key",
    "Defaults",
    "Cost",
    "When it hurts",
    "Measured effect",
    "Source",
)


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_complete_on_one_page(path):
    text = path.read_text()
    for field in FIELDS:
        assert f"**{field}.**" in text, f"{path} says nothing under {field}"
    assert shell_blocks.blocks(path, "python")
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", text)
    assert re.search(r"^\*\*Measured effect\.\*\* \S", text, re.MULTILINE)
    lines = text.splitlines()
    assert len(lines) <= 80
    assert max(map(len, (line for line in lines if line[:1] != "|"))) <= 92
    for name in re.findall(r"`((?:tests|configs|docs)/[\w./]+)`", text):
        assert Path(name).exists(), f"{path} names {name}"

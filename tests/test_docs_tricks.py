"""Method cards: complete, one page, and their code prints what it says."""

import re
from pathlib import Path

import pytest


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
    assert re.search(r"arXiv:\d{4}\.\d{5}", text)
    assert re.search(r"^\*\*Measured effect\.\*\* \S", text, re.MULTILINE)
    lines = text.splitlines()
    assert len(lines) <= 80
    assert max(map(len, (line for line in lines if line[:1] != "|"))) <= 92
    for name in re.findall(r"`((?:tests|configs|docs)/[\w./]+)`", text):
        assert Path(name).exists(), f"{path} names {name}"


@pytest.mark.slow
@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_code_prints_what_it_says(path, capsys):
    """The comment after each print is its output, but for words after a comma."""
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert blocks
    for code in blocks:
        exec(compile(code, str(path), "exec"), {})
        printed = capsys.readouterr().out.splitlines()
        said = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.M)
        assert len(said) == len(printed) > 0
        for comment, line in zip(said, printed, strict=True):
            assert comment == line or comment.startswith(f"{line}, ")

"""The README's Python example runs as it stands."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_example_runs(capsys):
    text = Path("README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "(8,) ['features', 'tokens']\n"


def test_two_set_up_commands():
    commands = re.findall(r"python3 -m venv .*", Path("README.md").read_text())
    assert len(commands) == 2
    assert "vit_jax_tricks.main" in commands[0]
    assert commands[1].endswith("-m pytest")

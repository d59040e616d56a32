"""The commands that documents show, as one types them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple


LANGUAGES = ("python", "sh", "yaml", "json")


class Line(NamedTuple):
    """A command line: where it stands, its text, and its words."""

    document: str
    text: str
    words: list[str]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, document.read_text(), re.DOTALL | re.MULTILINE)


def lines(document: Path) -> list[Line]:
    """Every command of the `sh` blocks: continued lines joined, `&&` taken apart."""
    found = []
    for block in blocks(document, "sh"):
        for text in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            for part in text.split("&&"):
                words = shlex.split(part, comments=True)
                if words:
                    found.append(Line(str(document), " ".join(words), words))
    return found

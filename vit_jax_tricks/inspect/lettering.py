"""Draws text of any language on pictures, with fonts that have the letters."""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import PIL.ImageFont

from vit_jax_tricks.console import say


UNKNOWN = "?"  # replaces a letter that no font has
ELLIPSIS = "…"
BOXES = ("lastresort", "adobeblank")  # fonts without letters: boxes or blanks


@dataclasses.dataclass(frozen=True)
class Lettering:
    """Fonts in order of preference; a letter is drawn by the first font that has it."""

    fonts: tuple[Path, ...]

    @property
    def families(self) -> list[str]:
        """The fonts' names in matplotlib."""
        return [_family(font) for font in self.fonts]

    def shown(self, text: str) -> str:
        """The text as one line, with question marks for letters that no font has."""
        known = frozenset().union(*map(_letters, self.fonts))
        line = " ".join(text.split())
        return "".join(c if ord(c) in known else UNKNOWN for c in line)

    def width(self, text: str, size: int) -> float:
        """Width of a line in pixels, at a font size in pixels."""
        return sum(_font(f, size).getlength(run) for f, run in self._runs(text))

    def shortened(self, text: str, width: int, size: int) -> str:
        """The text as one line of at most `width` pixels, with an ellipsis if cut."""
        text = self.shown(text)
        if self.width(text, size) <= width:
            return text
        while text and self.width(text + ELLIPSIS, size) > width:
            text = text[:-1]
        return text.rstrip() + ELLIPSIS

    def wrapped(self, text: str, width: int, size: int, lines: int) -> list[str]:
        """The text in at most `lines` lines, broken at spaces if there are any."""
        words, out = self.shown(text).split(), []
        while words and len(out) < lines - 1:
            count = len(words)
            while count > 1 and self.width(" ".join(words[:count]), size) > width:
                count -= 1
            if self.width(" ".join(words[:count]), size) > width:
                break  # one word alone is too long
            out.append(" ".join(words[:count]))
            words = words[count:]
        rest = " ".join(words)
        return [*out, self.shortened(rest, width, size)] if rest else out

    def draw(self, draw: Any, at: tuple[int, int], text: str, size: int) -> None:
        """Draws a line of white text onto a Pillow picture, top left corner at `at`."""
        left, top = float(at[0]), at[1]
        base = _font(self.fonts[0], size).getmetrics()[0]
        for font, run in self._runs(text):
            letters = _font(font, size)
            draw.text((left, top + base), run, fill="white", font=letters, anchor="ls")
            left += letters.getlength(run)

    def _runs(self, text: str) -> list[tuple[Path, str]]:
        """Splits the text into runs of one font each."""
        runs: list[tuple[Path, str]] = []
        for letter in text:
            fonts = (f for f in self.fonts if ord(letter) in _letters(f))
            font = next(fonts, self.fonts[0])
            if runs and runs[-1][0] == font:
                runs[-1] = font, runs[-1][1] + letter
            else:
                runs.append((font, letter))
        return runs


def lettering(texts: Iterable[str]) -> Lettering:
    """DejaVu Sans, and the system fonts that the texts additionally need.

    Reports letters that no font has in one line.
    """
    fonts = (_bundled(),)
    missing = {ord(c) for text in texts for c in " ".join(text.split())}
    missing -= _letters(fonts[0])
    for font in _installed() if missing else ():
        if missing & _letters(font):
            fonts += (font,)
            missing -= _letters(font)
        if not missing:
            break
    if missing:
        listed = " ".join(f"U+{c:04X}" for c in sorted(missing)[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        say(
            f'no installed font has {listed}{more}: shown as "{UNKNOWN}" on the '
            "picture; install one, such as Noto Sans CJK"
        )
    return Lettering(fonts)


def _bundled() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def _installed() -> Sequence[Path]:
    """The system's upright fonts of normal weight."""
    from matplotlib import font_manager

    names = {
        font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal")
    }
    return [f for f in sorted(map(Path, names)) if not f.stem.lower().startswith(BOXES)]


@functools.cache
def _letters(font: Path) -> frozenset[int]:
    """The code points that a font has glyphs for; empty if it cannot be scaled."""
    try:
        return frozenset(_opened(font).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()


def _family(font: Path) -> str:
    return _opened(font).family_name


def _opened(font: Path) -> Any:
    from matplotlib import ft2font

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd tables in system fonts
        return ft2font.FT2Font(str(font))


@functools.cache
def _font(font: Path, size: int) -> PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.truetype(str(font), size)

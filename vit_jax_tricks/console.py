"""Console output: the banner, the progress bar and one-line messages."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vit_jax_tricks.errors import UserError


class _Console(Console):
    """Treats a closed reader, as with `| head`, as an ordinary error.

    Nothing more is written to the closed stream; another stream is written to again.
    """

    _closed: Any = None

    @property
    def quiet(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.file is self._closed

    @quiet.setter
    def quiet(self, value: bool) -> None:
        self._closed = self.file if value else None

    def on_broken_pipe(self) -> None:
        self.quiet = True
        del self._buffer[:]
        raise  # the BrokenPipeError that rich handles


# Names of files and classes are plain text, never markup.
console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
PLAIN_EVERY_S = 5.0  # without a terminal: seconds between progress lines


def say(message: str) -> None:
    """Prints one line for the user."""
    console.print(message)


def fail(message: str) -> None:
    """Prints one line to standard error."""
    line = f"error: {' '.join(message.split())}"
    with contextlib.suppress(OSError):  # it may be closed too
        print(printable(line), file=sys.stderr)


@contextmanager
def muted() -> Iterator[None]:
    """Silences library threads; `fail` reports the error in one line."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    before = logger.disabled
    logger.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    finally:
        logger.disabled, sys.unraisablehook = before, hook


@contextmanager
def elsewhere(wanted: bool = True) -> Iterator[None]:
    """Sends all output for people to standard error, if `wanted`."""
    before, console.stderr = console.stderr, wanted or console.stderr
    try:
        yield
    finally:
        console.stderr = before


def banner(title: str, rows: dict[str, Any]) -> None:
    """Prints a two-column table of what is about to run."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


def si(value: float | int, unit: str = "") -> str:
    """Formats a number with an SI prefix: 1_234_567 -> '1.23 M'."""
    if value <= 0:
        return f"0 {unit}".strip()
    power = min(max(int(math.log10(value) // 3), 0), 5)
    scaled = value / 1000**power
    digits = 0 if power == 0 and scaled == int(scaled) else 2
    return f"{scaled:.{digits}f} {'kMGTP'[power - 1] if power else ''}{unit}".strip()


def duration(seconds: float | int) -> str:
    """Formats a duration: 3725 -> '1:02:05'."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class Bar:
    """A progress bar with the remaining time on a terminal; elsewhere occasional lines.

    It is the callback that functions take as `progress`: `bar(done, total, text)`. Work
    that begins again, or has another total, has a bar of its own.

    Args:
      unit: name of what is counted, in the lines.
      images: images in each unit; if given, their rate is the text. It counts from the
        second unit, as the first one compiles.
      check: called first each time; may raise to stop.
      lines: False shows nothing without a terminal; the bar is on standard error then
        and vanishes at the end.
    """

    def __init__(
        self,
        unit: str = "step",
        images: int = 0,
        *,
        check: Callable[[], None] = lambda: None,
        lines: bool = True,
    ):
        self._unit, self._images, self._check, self._lines = unit, images, check, lines
        self._console = console if lines else _Console(stderr=True)
        self._rich: Progress | None = None
        self._done, self._total = 0, -1

    def __call__(self, done: int, total: int, text: str = "") -> None:
        self._check()
        if total != self._total or done < self._done:
            self._open(done, total)
        now = time.monotonic()
        if self._done == self._start:  # the first unit has just ended
            self._timed = (done, now)
        self._done = done
        since, at = self._timed
        if self._images and done > since:
            text = f"{(done - since) * self._images / max(now - at, 1e-9):.0f} img/s"
        due = now - self._last >= PLAIN_EVERY_S or done == total
        if self._rich is not None:
            self._rich.update(self._task, completed=done, description=printable(text))
        elif self._lines and due and done > self._start:
            self._last = now
            pace = (now - self._began) / max(done - self._start, 1)
            eta = duration(pace * (total - done))
            say(f"{self._unit} {done}/{total}  {text}  ETA {eta}")
        if done == total and not self._lines:
            self.close()

    def _open(self, done: int, total: int) -> None:
        self.close()
        self._total, self._start, self._done = total, done, done
        self._began = self._last = time.monotonic()
        if self._console.is_terminal:
            self._rich = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                transient=not self._lines,
            )
            self._rich.start()
            self._task = self._rich.add_task("", total=total, completed=done)

    def close(self) -> None:
        """Ends the display; a later call begins another one."""
        if self._rich is not None:
            self._rich.stop()
        self._rich, self._total = None, -1

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def printable(text: str) -> str:
    """Escapes names that are not valid UTF-8, so that a terminal can show them."""
    return text.encode("utf-8", "backslashreplace").decode()


def explain(error: Exception) -> str | None:
    """The one-line message for an error, or None if a traceback is more useful.

    Notes that were added to the error follow it.
    """
    line = _explain(error)
    notes = getattr(error, "__notes__", ())
    return None if line is None else " ".join([line, *notes])


def _explain(error: Exception) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "standard output was closed before the end, as by `| head`."
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"the system refused: {error.strerror or error}{where}."
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written: {error}."
    if isinstance(error, RecursionError) and "JSON" in str(error):
        return "a JSON file is damaged: it is nested thousands of times."
    if isinstance(error, MemoryError):
        return "the memory is full; close other programs or give a smaller batch."
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        return (
            "the device is out of memory; halve config.batch_size, or double "
            "config.accumulate, or set config.model.remat=True."
        )
    return None

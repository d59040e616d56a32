"""Progress bar with the remaining time on a terminal, silent elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar


T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yields `items` and shows the progress; draws nothing without a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        items,
        total=total,
        description=printable(title),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def printable(text: str) -> str:
    """Escapes names that are not valid UTF-8, so that a terminal can show them."""
    return text.encode("utf-8", "backslashreplace").decode()

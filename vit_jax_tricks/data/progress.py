"""A progress bar with the remaining time on a terminal, silence elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar


T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yields `items` and shows how far it is; draws nothing without a terminal."""
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
    """The text with names that are no UTF-8 escaped, as a terminal can show them."""
    return text.encode("utf-8", "backslashreplace").decode()

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
        description=title,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

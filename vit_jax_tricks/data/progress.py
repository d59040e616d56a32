"""Progress of reading: a bar on a terminal, silent elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar


T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yields `items` and shows the progress; draws nothing without a terminal."""
    from vit_jax_tricks.console import Bar

    with Bar(lines=False) as bar:
        for done, item in enumerate(items):
            bar(done, total, title)
            yield item
        bar(total, total, title)

"""Progress of functions that take long."""

from collections.abc import Callable


# Called with the number of batches (or examples, or places) done and of all, before
# each batch and at the end of each pass. It may raise to stop. `console.Bar` is one.
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Shows nothing."""

"""Progress of functions that take long."""

from collections.abc import Callable


# Called with the number of batches (or examples, or places) done and of all, before
# each batch and at the end of each pass. It may raise to stop. `console.Bar` is one.
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Shows nothing."""


class UntilReady:
    """Reports the end of a pass only once its results are there.

    Batches are computed while later ones are read, so a pass over few batches would
    seem to take no time.

    Args:
      progress: what is called.
    """

    def __init__(self, progress: Progress):
        self._progress, self._total = progress, 0

    def __call__(self, done: int, total: int) -> None:
        self.ready()
        if done < total:
            self._progress(done, total)
        else:
            self._total = total

    def ready(self) -> None:
        """Reports the end of the last pass."""
        total, self._total = self._total, 0
        if total:
            self._progress(total, total)

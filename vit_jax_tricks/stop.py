"""Stopping on SIGTERM and Ctrl-C: save, say how to go on, exit.

During set-up and compilation there is nothing to save, so the signal raises `Stopped`
as soon as Python runs again. Inside `with stop.deferred():` (steps, evaluation) it only
sets `stop.requested`, which the loop asks for between batches. A second Ctrl-C ends the
process at once.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The run was asked to stop; `code` is the exit status: 0, or 130 for Ctrl-C."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Stop:
    """Installs the handlers and remembers what arrived."""

    def __init__(self):
        self.requested: int | None = None  # the exit code to stop with
        self.saved = False  # by the loop, before it lets `Stopped` go on
        self._deferred = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles both signals inside, and gives them back."""
        signums = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(signum, self._handle) for signum in signums]
        try:
            yield
        finally:
            for signum, handler in zip(signums, before, strict=True):
                signal.signal(signum, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raises Stopped if a signal has arrived."""
        if self.requested is not None:
            raise Stopped(self.requested)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.requested is not None:
            os._exit(130)
        self.requested = 130 if signum == signal.SIGINT else 0
        if not self._deferred:
            self.check()

"""Stops on SIGTERM, SIGHUP and Ctrl-C: saves, says how to resume, exits.

During set-up and compilation there is nothing to save, so the signal raises `Stopped`
as soon as Python runs again. Inside `with stop.deferred():` (steps, evaluation) it only
sets `stop.requested`, which the loop checks between batches; inside `with
stop.immediate():` (reading, evaluation) it raises again. Further signals do not disturb
a save; a third Ctrl-C ends the process immediately.

Exit statuses of every command: 0 finished, 1 an error in one line, and, as in shells,
128 + the signal for "stopped early": 143 SIGTERM, 129 SIGHUP, 130 Ctrl-C.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)
STOPPED = {128 + signum for signum in SIGNALS}  # exit statuses
PATIENCE = 3  # this many Ctrl-C end the process immediately


class Stopped(BaseException):
    """The run was asked to stop; `code` is the exit status, 128 + the signal."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Stop:
    """Installs the signal handlers and remembers what arrived."""

    def __init__(self):
        self.requested: int | None = None  # the exit status to stop with
        self.saved = False  # set by the loop before it re-raises `Stopped`
        self._deferred = self._immediate = False
        self._interrupts = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals inside, and restores the previous handlers.

        A signal that is ignored, as after nohup, stays ignored. Python handles signals
        in its main thread only; in other threads nothing is installed.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    before[signum] = signal.signal(signum, self._handle)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Within `deferred`, lets a signal interrupt code that changes nothing."""
        self._immediate = True
        try:
            self.check()
            yield
        finally:
            self._immediate = False

    def check(self) -> None:
        """Raises Stopped if a signal has arrived."""
        if self.requested is not None:
            raise Stopped(self.requested)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._interrupts += signum == signal.SIGINT
        if self._interrupts >= PATIENCE:
            os._exit(128 + signal.SIGINT)
        if self.requested is not None:
            more = PATIENCE - self._interrupts
            text = f"saving; Ctrl-C {more} more time(s) ends at once, without it\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())  # `print` may have been interrupted
            return
        self.requested = 128 + signum
        if self._immediate or not self._deferred:
            self.check()


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status.

    A run that was stopped ends immediately: Python would wait for threads that may hang
    in a read.
    """
    if status not in STOPPED:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

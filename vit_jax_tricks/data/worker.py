"""Worker processes that decode pictures, and end with the process that started them."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection, resource_tracker
from typing import Any


LEFT = "ignore:resource_tracker:UserWarning"
CHECK_S = 1.0  # between checks of the parent's id, in case its pipe stays open
GONE = 1  # exit status of a worker whose parent is gone


def shelter() -> None:
    """Blocks terminal signals for the processes that this thread will start.

    Call it in the thread that starts them. Ctrl-C and SIGHUP of a terminal also reach
    all child processes. With the signals blocked, none of them ends with a traceback
    while the run is being saved. The same holds for Python's resource tracker, which
    removes what killed processes leave in shared memory; it is started here, so that it
    does so without a warning.
    """
    before = list(sys.warnoptions)
    sys.warnoptions.append(LEFT)  # the tracker inherits these
    try:
        _block()
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before
    _block()  # starting the tracker unblocks the signals


def _block() -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))


def end_with_parent(*_: int) -> None:
    """Starts a thread that ends this process as soon as its parent has ended.

    This works even after SIGKILL, which leaves the parent no time to stop its children;
    Python's resource tracker then removes the shared memory. Linux's PR_SET_PDEATHSIG
    would not do: it follows the thread that started the process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Any) -> None:
    while os.getppid() == parent.pid:
        if connection.wait([parent.sentinel], timeout=CHECK_S):
            break
    os._exit(GONE)

"""Processes that decode pictures: they end with the process that started them."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection, resource_tracker
from typing import Any


LEFT = "ignore:resource_tracker:UserWarning"
CHECK_S = 1.0  # between looks at the parent's id, where its pipe stays open
GONE = 1  # the exit status of a worker whose parent is gone


def shelter() -> None:
    """Called by the thread that starts processes, before it does.

    Ctrl-C and SIGHUP of a terminal also go to all processes that it started. These have
    them blocked then, so that none ends with a traceback while the run is saved. So has
    Python's resource tracker, which removes what killed processes leave in shared
    memory; it starts here, to do so without a warning.
    """
    before = list(sys.warnoptions)
    sys.warnoptions.append(LEFT)  # the tracker inherits these
    try:
        _block()
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before
    _block()  # the tracker's start ends it


def _block() -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))


def end_with_parent(*_: int) -> None:
    """Starts a thread that ends this process as soon as its parent has ended.

    Also after SIGKILL, which leaves the parent no time to stop anybody; Python's
    resource tracker then removes the shared memory. Linux's PR_SET_PDEATHSIG would not
    do: it follows the thread that started the process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Any) -> None:
    while os.getppid() == parent.pid:
        if connection.wait([parent.sentinel], timeout=CHECK_S):
            break
    os._exit(GONE)

"""Processes that decode pictures: they end with the process that started them."""

import multiprocessing
import os
import threading
from multiprocessing import connection
from typing import Any


CHECK_S = 1.0  # between looks at the parent's id, where its pipe stays open
GONE = 1  # the exit status of a worker whose parent is gone


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

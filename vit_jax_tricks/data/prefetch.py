"""Prefetches batches on a background thread."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any


Batch = dict[str, Any]
WAIT_S = 2.0  # for a batch in progress; a read that hangs is abandoned


class Prefetch(Iterator[Batch]):
    """Iterates `batches` `depth` ahead until closed or garbage-collected."""

    def __init__(self, batches: Iterator[Batch], depth: int = 2):
        self._ready: queue.Queue = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_fill,
            args=(batches, self._ready, stop),
            name="prefetch",
            daemon=True,
        )
        self.close = weakref.finalize(self, _stop, thread, self._ready, stop)
        thread.start()

    def __next__(self) -> Batch:
        if not self.close.alive:
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(batches: Iterator[Batch], ready: queue.Queue, stop: threading.Event) -> None:
    end: BaseException = StopIteration()
    try:
        for batch in batches:
            _put(batch, ready, stop)
            if stop.is_set():
                break
    except BaseException as error:
        end = error
    _put(end, ready, stop)  # before `close`, which may wait for a hanging read
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def _put(item: Any, ready: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return


def _stop(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        while True:
            ready.get_nowait()
    if thread is not threading.current_thread():
        thread.join(WAIT_S)

"""Writes the metrics of a run: `metrics.jsonl` and TensorBoard events."""

import contextlib
import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from vit_jax_tricks import paths
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError


class MetricsWriter:
    """Appends to `workdir/metrics.jsonl`, one object per line, and to event files.

    A checkpoint stores `offset`; a resumed run truncates the file to it, so that lines
    after the checkpoint are not written twice.

    Raises:
      UserError: the file is shorter than `offset`.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool, offset: int, step: int):
        self.path = workdir / "metrics.jsonl"
        length = self.path.stat().st_size if self.path.exists() else 0
        if length < offset:
            raise UserError(
                f"{self.path} has {length} bytes, but the checkpoint of step {step} "
                f"was saved at {offset}; put it back, or give another workdir. "
                "Nothing was changed."
            )
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(offset)
        self._length = offset
        self._events = _Events(workdir, step) if tensorboard else None

    @property
    def offset(self) -> int:
        """Length of the file, flushed to disk because a checkpoint may outlive us."""
        os.fsync(self._file.fileno())
        return self._length

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line atomically; numbers that are not finite become null.

        Raises: OSError, such as a full disk.
        """
        line = {"step": step} | {
            k: v if math.isfinite(v) else None for k, v in values.items()
        }
        data = json.dumps(line).encode() + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._length)
            raise
        self._length += len(data)
        if self._events is not None:
            try:
                self._events.write(step, values)
            except OSError as error:
                self._events = None
                say(f"no more TensorBoard events ({error}); {self.path} continues")

    def close(self) -> None:
        self._file.close()
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):  # every line is already flushed
                events.close()


class _Events:
    """TensorBoard's event file, written in this thread because its own could hang."""

    def __init__(self, workdir: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        proto: Any = event_pb2
        self._event = proto.Event
        self._writer = EventsWriter(str(workdir / "events"))
        if step:  # hides what another process wrote after this step
            start = proto.SessionLog(status=proto.SessionLog.START)
            self._add(step=step + 1, session_log=start)

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, **fields: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **fields))


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order, without an incomplete last line.

    Lines that are not metrics, as a failing disk may leave them, are left out and
    reported.
    """
    path = paths.absolute(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [_parsed(line) for line in path.read_bytes().split(b"\n")[:-1]]
    if odd := [number for number, line in enumerate(lines, 1) if line is None]:
        shown = ", ".join(map(str, odd[:5])) + (", ..." if len(odd) > 5 else "")
        say(f"{path}: {len(odd)} unreadable line(s) left out: {shown}")
    return [line for line in lines if line is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):  # also for invalid UTF-8
        return None
    sound = isinstance(values, dict) and type(values.get("step")) is int
    sound = sound and all(_number(value) for value in values.values())
    return values if sound else None


def _number(value: Any) -> bool:
    """Whether a curve can show it."""
    try:
        return value is None or (
            isinstance(value, int | float) and math.isfinite(value)
        )
    except OverflowError:  # a whole number of hundreds of digits
        return False

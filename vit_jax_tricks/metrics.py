"""What a run writes while it goes: `metrics.jsonl` and TensorBoard events."""

import json
import math
import os
from pathlib import Path
from typing import Any

from vit_jax_tricks.errors import UserError


class MetricsWriter:
    """Appends to `workdir/metrics.jsonl`, one object a line, and to event files.

    A checkpoint stores `offset`, and a resumed run cuts the file back to it, so that
    lines after the checkpoint are not written twice.

    Raises:
      UserError: the file is shorter than `offset`.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool, offset: int, step: int):
        self.path = workdir / "metrics.jsonl"
        length = self.path.stat().st_size if self.path.exists() else 0
        if length < offset:
            raise UserError(
                f"{self.path} has {length} bytes, but the checkpoint of step {step} "
                f"was saved after {offset}; put it back, or give another --workdir. "
                "Nothing was changed."
            )
        self._file = self.path.open("ab")
        self._file.truncate(offset)
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(workdir), purge_step=step + 1 if step else None
            )

    @property
    def offset(self) -> int:
        """The file's length; all of it is on disk, as a checkpoint may outlive us."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, 2)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line; numbers that are not finite become null."""
        line = {"step": step} | {
            k: v if math.isfinite(v) else None for k, v in values.items()
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, in order; a last line cut short is left out."""
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]

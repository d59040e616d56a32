"""Runs a training process and triggers an event at one exact moment.

    python benchmarks/kill_at.py EVENT MOMENT NOTES ARGUMENTS_OF_MAIN ...

`kill_matrix.py` starts it. It runs `vit_jax_tricks.main` with one function wrapped, so
that the event happens when that function starts. It writes to the file NOTES the time
of the event, the last step before it, and the checkpoints that were complete.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_jax_tricks import main
from vit_jax_tricks.runs import model_inputs
from vit_jax_tricks.stop import leave
from vit_jax_tricks.storage import checkpoint
from vit_jax_tricks.storage.manifest import MANIFEST, step_folders
from vit_jax_tricks.train import loop, report
from vit_jax_tricks.train.experiment import Experiment


# The function and the number of the call that define the moment. The run of
# kill_matrix.py saves at 4, 8, 12 ... and evaluates in 3 batches at 5, 10, 15 ...
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "compile": (Experiment, "compile_train_step", 1),
    "step": (Experiment, "put", 7),  # after 6 steps and one evaluation
    "evaluation": (model_inputs, "_normalize", 5),  # in the middle of that at step 10
    "save": (checkpoint, "write_manifest", 3),  # of step 8, before its final name
    "report": (report, "write", 1),
}
# The batch of the epoch that loses a picture; None: one of the test split.
BATCHES = {"compile": 1, "step": 7, "save": 5, "evaluation": None}
BALLAST = "ballast"


def batch_pictures(x: Experiment, number: int | None) -> Path:
    """Returns the first picture of training batch `number` (from 1), or a test one."""
    data: Any = x.task.data
    if number is None:
        return Path(data.test.name(x.eval_batch_size))  # in its second batch
    with x.train_batches(number - 1) as batches:
        return Path(data.train.name(int(next(batches)["index"][0])))


class Happening:
    """One event at one moment."""

    def __init__(self, event: str, moment: str, notes: Path, workdir: Path):
        self.event, self.moment, self.notes = event, moment, notes
        self.workdir, self.step, self.calls = workdir, 0, 0
        self.lock = threading.Lock()

    def install(self, replace: Callable[[Any, str, Any], None] = setattr) -> None:
        """Wraps the function of the moment; a picture is removed before any is read."""
        self._count_steps(replace)
        if self.event in ("unreadable picture", "SIGTERM in a stalled read"):
            original = Experiment.compile_train_step

            def compile_train_step(x: Experiment):
                self._lose(batch_pictures(x, BATCHES[self.moment]))
                return original(x)

            replace(Experiment, "compile_train_step", compile_train_step)
            return
        owner, name, number = MOMENTS[self.moment]
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            with self.lock:
                self.calls += 1
                now = self.calls == number
            if now:
                if self.moment == "evaluation":
                    self._wait_for_save()
                self._note()
                EVENTS[self.event](self)
            return original(*args, **kwargs)

        replace(owner, name, wrapped)

    def _count_steps(self, replace: Callable[[Any, str, Any], None]) -> None:
        original = loop.Loop._drain

        def drain(loop: loop.Loop, lag: int, **options):
            if lag:
                self.step = loop.pending[-1][0]
            return original(loop, lag, **options)

        replace(loop.Loop, "_drain", drain)

    def _wait_for_save(self) -> None:
        """Waits for the save of the same step, which may still be running."""
        folder = self.workdir / "checkpoints"
        while any(folder.glob(".*.part")):
            time.sleep(0.01)

    def _note(self) -> None:
        folders = step_folders(self.workdir / "checkpoints")
        sealed = [s for s, folder in folders.items() if (folder / MANIFEST).exists()]
        values = {"step": self.step, "sealed": sealed, "time": time.monotonic()}
        self.notes.write_text(json.dumps(values))

    def _lose(self, picture: Path) -> None:
        self.notes.with_suffix(".picture").write_bytes(picture.read_bytes())
        self.notes.with_suffix(".path").write_text(str(picture))
        self._note()
        picture.unlink()
        if self.event == "unreadable picture":
            picture.write_bytes(b"no picture")
            return
        os.mkfifo(picture)  # opening it blocks for ever
        threading.Thread(target=self._stop_stalled, daemon=True).start()

    def _stop_stalled(self) -> None:
        batch = BATCHES[self.moment]
        expected = 5 if batch is None else batch - 1
        while self.step < expected:
            time.sleep(0.01)
        time.sleep(1.0)
        self._note()
        os.kill(os.getpid(), signal.SIGTERM)

    def signals(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.02)

    def of_terminal(self, number: int) -> None:
        """Signals this process and its workers at once, as a terminal does."""
        os.killpg(os.getpid(), number)

    def kill_worker(self) -> None:
        workers = multiprocessing.active_children()
        if not workers:
            raise SystemExit("there are no workers to be killed")
        os.kill(workers[0].pid or 0, signal.SIGKILL)

    def close_stdout(self) -> None:
        read, write = os.pipe()
        os.dup2(write, sys.stdout.fileno())
        os.close(write)
        os.close(read)

    def fill_disk(self) -> None:
        """Fills a small disk; a larger disk only appears full to this process."""
        place = self.workdir.parent
        room = os.statvfs(place)
        if room.f_bavail * room.f_frsize > 2**26:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
            return
        with (place / BALLAST).open("wb", buffering=0) as file:
            for size in (2**16, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue


EVENTS: dict[str, Callable[[Happening], None]] = {
    "SIGKILL": lambda self: self.signals(signal.SIGKILL),
    "SIGTERM": lambda self: self.signals(signal.SIGTERM),
    "SIGHUP": lambda self: self.of_terminal(signal.SIGHUP),
    "Ctrl-C": lambda self: self.of_terminal(signal.SIGINT),
    "Ctrl-C twice": lambda self: self.signals(signal.SIGINT, signal.SIGINT),
    "SIGTERM, Ctrl-C": lambda self: self.signals(signal.SIGTERM, signal.SIGINT),
    "killed worker": Happening.kill_worker,
    "closed stdout": Happening.close_stdout,
    "full disk": Happening.fill_disk,
}


if __name__ == "__main__":
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores SIGHUP,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT
    event, moment, notes, *rest = sys.argv[1:]
    [workdir] = [a.partition("=")[2] for a in rest if a.startswith("--workdir=")]
    Happening(event, moment, Path(notes), Path(workdir)).install()
    leave(main.main(rest))

"""Ends runs by every event at every moment and checks that they resume exactly.

    python benchmarks/kill_matrix.py

Each cell of the table is a small run with one event at one exact moment (kill_at.py),
followed by the same command again. A cell shows the exit status, the newest saved step,
and `=` if the second start resumes there and ends with the state and metrics of an
undisturbed run, bit for bit. A cell is marked `!` with the reason if the second start
fails or differs, a complete checkpoint is missing or damaged, steps are lost that could
have been saved, the error takes more than one line, or the run took more than 10
seconds to end.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from vit_jax_tricks.storage.manifest import DamagedError, step_folders, verify_files


HERE = Path(__file__).parent
ROOT = HERE.parent
MOMENTS = ("compile", "step", "evaluation", "save", "report")
STEPS = 24  # two epochs; saves at 4, 8, 12 ..., evaluation at 5, 10, 15, 20, 24
OPTIONS = {
    "model.depth": 1,
    "model.embed_dim": 16,
    "model.num_heads": 2,
    "data.image_size": 8,
    "data.train_crop": "random_resized",
    "batch_size": 8,
    "eval.batch_size": 8,
    "steps": STEPS,
    "schedule.warmup_epochs": 0.1,
    "eval.epochs": 5 / 12,
    "checkpoint.steps": 4,
    "log.steps": 3,
    "log.tensorboard": False,
}
STATUS = {
    "SIGKILL": -9,
    "SIGTERM": 143,
    "SIGHUP": 129,
    "Ctrl-C": 130,
    "Ctrl-C twice": 130,
    "SIGTERM, Ctrl-C": 143,
    "SIGTERM in a stalled read": 143,
    "unreadable picture": 1,
    "killed worker": 1,
    "closed stdout": 1,
    "full disk": 1,
}
NEVER = {  # nothing is read then, or there are no workers
    "unreadable picture": ("report",),
    "SIGTERM in a stalled read": ("report",),
    "killed worker": ("compile", "report"),
}
WORKERS = ("SIGKILL", "SIGHUP", "Ctrl-C", "killed worker")  # run with two workers
UNSAVED = ("SIGKILL", "full disk")  # lose what is in memory
OURS = re.compile(r"saving; Ctrl-C \d more time")  # on stderr after a signal
SLOWEST_S = 10.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """The outcome of one event at one moment."""

    status: int
    saved: int  # the newest step, 0 for none
    seconds: float  # from the event to the end of the process
    wrong: tuple[str, ...]
    said: str

    def __str__(self) -> str:
        what = f"! {'; '.join(self.wrong)}" if self.wrong else "="
        return f"{self.status}, {self.saved or 'none'} {what}"


class Matrix:
    """Runs below `root` that share a data set and a compilation cache."""

    def __init__(self, root: Path):
        self.root, self.whole = root, root / "whole" / "run"
        self.whole.parent.mkdir()
        pictures(root / "data")
        done = self.train(self.whole, root / "data")
        if done.returncode:
            raise SystemExit(done.stderr)

    def train(
        self, workdir: Path, data: Path, *driver: str, workers: int = 0
    ) -> subprocess.CompletedProcess:
        """Runs the command once; `driver` holds the first arguments of kill_at.py."""
        options = OPTIONS | {"data.name": f"folder:{data}"}
        if workers:
            options["data.workers"] = workers
        first = ["-m", "vit_jax_tricks.main"]
        if driver:
            first = [str(HERE / "kill_at.py"), *driver]
        settings = [f"--config.{key}={value}" for key, value in options.items()]
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        return subprocess.run(
            [sys.executable, *first, f"--workdir={workdir}", *settings],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=env,
            cwd=ROOT,
        )

    def cell(self, event: str, moment: str) -> Cell | None:
        """Triggers the event, restarts and compares; None where it is meaningless."""
        if moment in NEVER.get(event, ()):
            return None
        place = self.root / f"{event}, {moment}".replace(" ", "_")
        data, notes = place / "data", place / "notes"
        shutil.copytree(self.root / "data", data)
        with small_disk(place / "disk", event == "full disk") as disk:
            workdir = disk / "run"
            workers = 2 if event in WORKERS else 0
            driver = event, moment, str(notes)
            first = self.train(workdir, data, *driver, workers=workers)
            ended = time.monotonic()
            noted = json.loads(notes.read_text())
            saved = max(step_folders(workdir / "checkpoints"), default=0)
            wrong = self._ending(event, moment, first, workdir, noted)
            put_back(notes, disk)
            second = self.train(workdir, data, workers=workers)
            wrong += self._again(second, workdir, saved)
        seconds = 0.0 if event == "unreadable picture" else ended - noted["time"]
        if seconds > SLOWEST_S:
            wrong.append(f"ended after {seconds:.0f} s")
        said = (first.stderr.strip() or first.stdout.strip()).rpartition("\n")[2]
        return Cell(first.returncode, saved, seconds, tuple(wrong), said)

    def _ending(
        self,
        event: str,
        moment: str,
        done: subprocess.CompletedProcess,
        workdir: Path,
        noted: dict,
    ) -> list[str]:
        """Lists faults in how the first process ended and in what it left."""
        wrong, status = [], STATUS[event]
        if moment == "report" and status > 1:
            status = 0  # the signal comes too late to stop anything
        if done.returncode != status:
            wrong.append(f"status {done.returncode} for {status}")
        if status == 1 and not re.fullmatch(r"error: .*\n", done.stderr):
            wrong.append(f"stderr {done.stderr!r}")
        odd = [line for line in done.stderr.splitlines() if not OURS.match(line)]
        if status != 1 and odd:
            wrong.append(f"stderr {odd[-1]!r}")
        folders = step_folders(workdir / "checkpoints")
        for folder in folders.values():
            with contextlib.suppress(DamagedError):
                verify_files(folder)
                continue
            wrong.append(f"{folder.name} is damaged")
        newest = max(noted["sealed"], default=0)
        if event not in UNSAVED:
            newest = max(newest, noted["step"])
        if event == "unreadable picture":
            newest = {"compile": 0, "step": 6, "save": 4, "evaluation": 5}[moment]
        if max(folders, default=0) < newest:
            wrong.append(f"{newest} could be saved")
        return wrong

    def _again(
        self, done: subprocess.CompletedProcess, workdir: Path, saved: int
    ) -> list[str]:
        """Lists faults in the second start."""
        if done.returncode:
            return [f"second start: {done.stderr.strip()}"]
        found = re.search(r"^resuming .* at step (\d+)$", done.stdout, re.M)
        wrong = []
        if (int(found[1]) if found else 0) != saved:
            wrong.append(f"resumed at {found[1] if found else 0}")
        if "damaged" in done.stdout:
            wrong.append("damaged")
        if state(workdir) != state(self.whole):
            wrong.append("another state")
        if metrics(workdir) != metrics(self.whole):
            wrong.append("other metrics")
        if not (workdir / "report" / "summary.md").exists():
            wrong.append("no report")
        return wrong


def pictures(root: Path) -> None:
    """Writes 96 training and 24 test pictures of three classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 32), ("test", 8)):
        for name in "abc":
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                path = root / part / name / f"{i:02}.png"
                PIL.Image.fromarray(pixels).save(path)


@contextlib.contextmanager
def small_disk(folder: Path, wanted: bool) -> Iterator[Path]:
    """Mounts a disk of 8 MB if wanted and permitted; otherwise makes a folder."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = wanted and not subprocess.run(line, capture_output=True).returncode
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def put_back(notes: Path, disk: Path) -> None:
    """Repairs what kill_at.py did to a picture or to the disk."""
    (disk / "ballast").unlink(missing_ok=True)
    path = notes.with_suffix(".path")
    if path.exists():
        picture = Path(path.read_text())
        picture.unlink()
        picture.write_bytes(notes.with_suffix(".picture").read_bytes())


def state(workdir: Path) -> dict[str, list]:
    """Returns the type and checksum of every leaf of the last state."""
    meta = workdir / "checkpoints" / str(STEPS) / "meta" / "metadata"
    return json.loads(meta.read_text())["leaves"]


def metrics(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
        for line in lines
    ]


def table(cells: dict[tuple[str, str], Cell | None]) -> str:
    events = dict.fromkeys(event for event, _ in cells)
    rows = ["| | " + " | ".join(MOMENTS) + " |", "|---" * (len(MOMENTS) + 1) + "|"]
    for event in events:
        shown = [str(cells.get((event, moment)) or "–") for moment in MOMENTS]
        rows.append(f"| {event} | {' | '.join(shown)} |")
    return "\n".join(rows)


def run(events: Iterable[str], moments: Iterable[str], jobs: int, root: Path) -> bool:
    """Prints the table; returns whether every cell is right."""
    matrix, began = Matrix(root), time.monotonic()
    pairs = [(event, moment) for event in events for moment in moments]
    cells = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda pair: matrix.cell(*pair), pairs)
        for (event, moment), cell in zip(pairs, found, strict=True):
            cells[event, moment] = cell
            if cell is not None:
                took = f"{cell.seconds:.1f} s"
                print(f"{event}, {moment}: {cell} ({took}) {cell.said}", flush=True)
    print(f"\n{table(cells)}\n")
    there = [cell for cell in cells.values() if cell is not None]
    bad = sum(bool(cell.wrong) for cell in there)
    slowest = max((cell.seconds for cell in there), default=0.0)
    print(
        f"{len(there)} cells in {time.monotonic() - began:.0f} s, {bad} of them wrong; "
        f"the slowest end came {slowest:.1f} s after the event."
    )
    return not bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", help="some of them, separated by semicolons")
    parser.add_argument("--moments", help="some of them, separated by commas")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    chosen = given.events.split(";") if given.events else STATUS
    at = given.moments.split(",") if given.moments else MOMENTS
    with tempfile.TemporaryDirectory() as folder:
        done = run(chosen, at, given.jobs, Path(folder))
    sys.exit(0 if done else 1)

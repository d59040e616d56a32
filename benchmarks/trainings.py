"""Runs our own commands, one per core, for benchmarks that train many models."""

import concurrent.futures
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def call(module: str, *flags: str, core: int | None = None) -> str:
    """Runs one of our commands, on one core if given, and returns its output."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    done = subprocess.run(
        [*pin, sys.executable, "-m", f"vit_jax_tricks.{module}", *flags],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(flags)}\n{done.stderr[-2000:]}")
    return done.stdout


def train(
    workdir: pathlib.Path, config: str, *flags: str, core: int | None = None
) -> float:
    """Trains, or resumes, and returns the test accuracy after the last epoch."""
    call("main", f"--config={config}", f"--workdir={workdir}", *flags, core=core)
    return last(workdir)


def last(workdir: pathlib.Path) -> float:
    """Returns the newest test accuracy of a run."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [v for line in lines if (v := json.loads(line).get("test/accuracy"))][-1]


def gains(accuracy: dict[str, list[float]], against: str) -> dict[str, list[float]]:
    """Prints the mean and standard deviation of each arm's paired gains in points."""
    found = {}
    for arm, values in accuracy.items():
        pairs = zip(values, accuracy[against], strict=True)
        differences = [100 * (value - other) for value, other in pairs]
        spread = statistics.stdev(differences) if len(values) > 1 else float("nan")
        found[arm] = [statistics.mean(differences), spread]
        print(
            f"{arm:13}{' '.join(f'{100 * v:6.2f}' for v in values)}  mean "
            f"{100 * statistics.mean(values):.2f}  gain "
            f"{found[arm][0]:+.2f} ± {spread:.2f}",
            flush=True,
        )
    return found


class Cores:
    """A pool with one worker per core: faster than giving every run all cores."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self._free: queue.Queue[int] = queue.Queue()
        for core in cores:
            self._free.put(core)
        self._pool = concurrent.futures.ThreadPoolExecutor(len(cores))

    def submit(
        self, job: Callable[..., Any], *args: Any
    ) -> "concurrent.futures.Future[Any]":
        """Calls `job(*args, core=...)` as soon as a core is free."""

        def run() -> Any:
            core = self._free.get()
            try:
                return job(*args, core=core)
            finally:
                self._free.put(core)

        return self._pool.submit(run)

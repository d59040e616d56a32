"""Kills a training run with SIGKILL at random moments and restarts it until it ends.

    python benchmarks/kill_resume.py --kills=20

The final state (parameters, average, optimiser) and metrics.jsonl, except `time/*`,
must be bit-identical to those of an undisturbed run. The run saves so often that many
kills hit a save. Compiled programs are cached between restarts, so a restart takes
seconds.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax_tricks.param_names import path_str
from vit_jax_tricks.storage.manifest import MANIFEST


def command(workdir: Path, steps: int) -> list[str]:
    """Returns a small run's command: EMA, mixup, drop path and two micro-batches."""
    options = {
        "model.depth": 2,
        "model.embed_dim": 32,
        "model.num_heads": 2,
        "batch_size": 64,
        "accumulate": 2,
        "steps": steps,
        "schedule.warmup_epochs": 1.0,
        "eval.epochs": 5.0,
        "checkpoint.steps": 24,
        "log.steps": 7,
    }
    settings = [f"--config.{key}={value}" for key, value in options.items()]
    base = [sys.executable, "-m", "vit_jax_tricks.main", "--config=configs/digits.py"]
    return [*base, f"--workdir={workdir}", *settings]


def start(workdir: Path, steps: int, log: Path, programs: Path) -> subprocess.Popen:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with log.open("a") as out:
        return subprocess.Popen(
            command(workdir, steps), stdout=out, stderr=out, env=os.environ | cache
        )


def last_step(workdir: Path) -> int:
    """Returns the last step in metrics.jsonl, or 0."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def halves(workdir: Path) -> set[tuple[str, int]]:
    """Returns half-written and half-deleted checkpoints, by name and inode."""
    folder = workdir / "checkpoints"
    found = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return {(p.name, p.stat().st_ino) for p in found if not (p / MANIFEST).exists()}


def final(workdir: Path, steps: int) -> dict[str, bytes]:
    """Returns the bytes of every leaf of the last state."""
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir.absolute() / f"checkpoints/{steps}/state")
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {path_str(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def metrics(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
        for line in lines
    ]


def undisturbed(workdir: Path, steps: int, log: Path, programs: Path):
    """Runs to the end; returns the seconds before the first save and after it."""
    began = time.monotonic()
    process = start(workdir, steps, log, programs)
    first = 0.0
    while process.poll() is None:
        if not first and (workdir / "checkpoints").is_dir():
            first = time.monotonic() - began
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(log.read_text())
    return first, time.monotonic() - began - first


def run(kills: int, steps: int, seed: int, root: Path) -> bool:
    """Prints one line per kill and a summary; returns whether the runs agree."""
    rng = random.Random(seed)
    whole, killed, programs = root / "whole", root / "killed", root / "programs"
    undisturbed(whole, steps, root / "whole.log", programs)  # compiles
    setup, work = undisturbed(root / "timed", steps, root / "timed.log", programs)
    print(
        f"undisturbed: {setup:.1f} s to the first save, {work:.1f} s after", flush=True
    )
    at, in_save, began, starts = [], 0, time.monotonic(), 0
    while True:
        left = halves(killed)  # by the previous kill
        process = start(killed, steps, root / "killed.log", programs)
        starts += 1
        moment = rng.uniform(0.4 * setup, setup + 1.3 * work / max(kills, 1))
        try:
            process.wait(moment if len(at) < kills else 600)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            half = bool(halves(killed) - left)
            in_save += half
            at.append(last_step(killed))
            where = ", in a save" if half else ""
            print(f"kill {len(at)}: {moment:.2f} s, step {at[-1]}{where}", flush=True)
            continue
        if process.returncode:
            raise SystemExit((root / "killed.log").read_text())
        break
    states = final(whole, steps), final(killed, steps)
    same = {
        "parameters": [k for k in states[0] if k.startswith("params")],
        "average": [k for k in states[0] if k.startswith("ema")],
        "state": list(states[0]),
    }
    verdict = {
        name: bool(keys) and all(states[0][k] == states[1].get(k) for k in keys)
        for name, keys in same.items()
    }
    verdict["tree"] = states[0].keys() == states[1].keys()
    verdict["metrics"] = metrics(whole) == metrics(killed)
    print(
        f"{len(at)} kills over {starts} starts in {time.monotonic() - began:.0f} s, at "
        f"steps {at} of {steps}; {in_save} hit a save. Bit-identical: "
        + ", ".join(f"{name} {'yes' if ok else 'NO'}" for name, ok in verdict.items())
        + f" ({len(states[0])} leaves, {len(metrics(whole))} lines)."
    )
    return all(verdict.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        done = run(given.kills, given.steps, given.seed, Path(place))
    sys.exit(0 if done else 1)

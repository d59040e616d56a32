"""Reading that fails or hangs: one line with the file's name, and nothing left over."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vit_jax_tricks.data import build, prefetch
from vit_jax_tricks.errors import UserError


@pytest.mark.parametrize(
    ("damage", "workers"), [("removed", 0), ("cut", 0), ("text", 0), ("text", 1)]
)
def test_a_picture_that_breaks_in_mid_epoch_is_named(folder, damage, workers):
    root = folder(count=6)
    data = build(f"folder:{root}", image_size=8, workers=workers)
    for path in (root / "dog").iterdir():
        if damage == "removed":
            path.unlink()
        else:
            cut = path.read_bytes()[:60]
            path.write_bytes(b"text" if damage == "text" else cut)
    with (
        data.train_batches(4, seed=0) as batches,
        pytest.raises(UserError, match=r"dog/\d\d\.jpg cannot be read") as error,
    ):
        list(itertools.islice(batches, 10))
    assert "start the same command again" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_in_memory_are_named_too(folder, split):
    root = folder(count=6)
    data = build(f"folder:{root}", image_size=8, train_crop="center")
    assert data.in_memory
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"text")
    with pytest.raises(UserError, match=r"(dog|cat)/\d\d\.jpg cannot be read"):
        data.test_batches(4, split=split)


def test_a_chosen_part_names_the_right_file(folder):
    root = folder(count=20)
    data = build(f"folder:{root}", image_size=8, examples=4, repeats=3)
    victim = data.train.records.paths[data.train.rows[2]]
    (root / victim).write_bytes(b"text")
    with (
        data.train_batches(4, seed=0) as batches,
        pytest.raises(UserError, match=f"{victim} cannot be read"),
    ):
        list(itertools.islice(batches, 10))


def test_a_read_that_hangs_does_not_hold_up_closing(monkeypatch):
    monkeypatch.setattr(prefetch, "WAIT_S", 0.2)

    def hanging():
        yield {"x": 1}
        release.wait()

    release = threading.Event()
    batches = prefetch.Prefetch(hanging())
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 2
    release.set()


def test_a_signal_interrupts_waiting_for_a_batch():
    class Interrupted(Exception):
        pass

    def handle(*_):
        raise Interrupted

    release = threading.Event()
    before = signal.signal(signal.SIGUSR1, handle)
    batches = prefetch.Prefetch(iter(release.wait, True))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Interrupted):
            next(batches)
    finally:
        signal.signal(signal.SIGUSR1, before)
        release.set()
        batches.close()


PROGRAM = """
import sys, time
from vit_jax_tricks.data import build
from vit_jax_tricks.errors import UserError

if __name__ == "__main__":
    data = build(sys.argv[1], image_size=32, workers=2)
    batches = data.train_batches(8, seed=0)
    next(batches)
    print("ready", flush=True)
    try:
        while True:
            next(batches)
            time.sleep(0.02)
    except UserError as error:
        print("error:", error)
"""


@pytest.fixture
def running(folder, tmp_path):
    """A process that trains on batches of two workers, and their ids."""
    root = folder(count=20)
    (tmp_path / "train.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "train.py", f"folder:{root}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any(line.startswith("ready") for line in process.stdout)
        found = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout  # -ww: whole lines, whatever COLUMNS says
        lines = [line for line in found.splitlines() if "spawn_" in line]
        assert len(lines) == 2, found
        yield process, [int(line.split()[0]) for line in lines]
    finally:
        process.kill()
        process.communicate()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="looks into /proc, /dev/shm")
def test_workers_and_their_memory_end_with_a_killed_parent(running):
    process, workers = running
    mapped = set()
    for pid in (process.pid, *workers):
        with open(f"/proc/{pid}/maps") as file:
            mapped |= {
                line.split("/dev/shm/")[1].split()[0] for line in file if "psm_" in line
            }
    process.kill()
    process.wait()
    until(lambda: not any(alive(pid) for pid in workers))
    assert mapped
    until(lambda: not mapped & set(os.listdir("/dev/shm")))


@pytest.mark.slow
def test_a_killed_worker_is_one_line_soon(running):
    process, workers = running
    os.kill(workers[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert "error: a process that decodes pictures was ended from outside" in out
    assert "config.data.workers" in out
    until(lambda: not any(alive(pid) for pid in workers))

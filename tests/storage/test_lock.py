"""One writer in a folder: who holds it, and what a dead holder leaves."""

import dataclasses
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.storage import lock
from vit_jax_tricks.storage.lock import NAME, Holder, locked


HOLD = """
import sys, time
from pathlib import Path
from vit_jax_tricks.storage import lock
if "--no-locks" in sys.argv:
    lock._system_lock = lambda handle: None
with lock.locked(Path(sys.argv[1]), "wait"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Starts processes that hold the folder, and ends them."""
    started = []

    def start(*args):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), *args],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def locks(request, monkeypatch):
    """Also on a file system that has no locks."""
    if not request.param:

        def flock(handle, how):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def take(folder):
    with locked(folder, "go away"):
        return (folder / NAME).read_text()


def test_held_and_let_go(locks, tmp_path):
    with locked(tmp_path, "go away"):
        with pytest.raises(UserError, match=f"by process {os.getpid()} on"):
            take(tmp_path)
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "go away"):
        raise ZeroDivisionError
    take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_and_its_death(locks, other, tmp_path):
    process = other(*([] if locks else ["--no-locks"]))
    found = re.escape(f"{tmp_path} is in use by process {process.pid} on ")
    host = re.escape(socket.gethostname())
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(UserError, match=f"{found}{host} {since}.*; wait for it, or go"):
        take(tmp_path)
    process.send_signal(signal.SIGKILL)  # not waited for: it stays as a zombie
    deadline = time.monotonic() + 10
    while lock._began(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(take(tmp_path))["pid"] == os.getpid()


def forged(folder, **changes):
    held = dataclasses.replace(Holder.this(), **changes)
    (folder / NAME).write_text(json.dumps(dataclasses.asdict(held)))


@pytest.mark.parametrize(
    "changes",
    [{"began": "1"}, {"pid": 2**22 + 1}, {"space": "an-earlier-boot pid:[1]"}],
    ids=["id used again", "no such process", "rebooted"],
)
def test_stale_locks_are_taken(changes, locks, tmp_path):
    forged(tmp_path, **changes)
    assert json.loads(take(tmp_path))["began"] == Holder.this().began


def test_another_host_cannot_be_asked(locks, tmp_path):
    """Where the system has locks they know; elsewhere the user decides."""
    forged(tmp_path, host="elsewhere")
    if locks:
        take(tmp_path)
        return
    with pytest.raises(UserError, match=rf"on elsewhere.*delete .*{NAME}\.$"):
        take(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\0", b"[]", b"{}"])
def test_a_lock_file_without_a_name(content, locks, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    take(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        take(tmp_path / "missing")


RACE = """
import sys
from pathlib import Path
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.storage.lock import locked
folder, won = Path(sys.argv[1]), 0
inside = folder / "inside"
while won < 30:
    try:
        with locked(folder, "wait"):
            inside.open("x").close()
            won += 1
            inside.unlink()
    except UserError:
        pass
print(won)
"""


def test_never_two_at_once(tmp_path):
    forged(tmp_path, began="1")  # and a stale one at the start
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    won = [int(process.communicate()[0]) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert won == [30, 30, 30]

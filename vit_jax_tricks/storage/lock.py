"""Lock file that allows one writer in a folder and names its holder.

The system's lock on the file shows whether its holder is alive, so a killed process
holds nothing. If there are no such locks (some network file systems), or a child of a
killed process still holds it, the holder's process id and start time decide.
"""

import contextlib
import dataclasses
import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from vit_jax_tricks.errors import UserError


NAME = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
TRIES, PAUSE_S = 20, 0.05  # the file may appear and vanish as others start and end


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
      host, pid: the host it runs on, and its process id there.
      space: the boot and the namespace that the id belongs to.
      began: the system's start time of the process, because ids are reused.
      since: the time when it took the lock, for people.
    """

    host: str
    pid: int
    space: str
    began: str
    since: str

    @staticmethod
    def this() -> "Holder":
        """This process."""
        pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        return Holder(socket.gethostname(), pid, _space(), _began(pid), since)

    def gone(self) -> bool:
        """Whether the process has certainly ended; False if that is unknown."""
        if self.host != socket.gethostname():
            return False
        if self.space != _space():  # other boot or container
            return self.space.partition(" ")[0] != _space().partition(" ")[0]
        began = _began(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's process, which the system may hide
            return began not in (self.began, "")
        return began != self.began


@contextlib.contextmanager
def locked(folder: Path, otherwise: str) -> Iterator[None]:
    """Keeps other writers out of a folder while inside; readers are not kept out.

    Args:
      folder: must exist.
      otherwise: advice if it is held, such as "give another workdir".

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    path = folder / NAME
    try:
        handle = _acquire(path, otherwise)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); {otherwise}."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(path, handle):
                path.unlink()
        os.close(handle)


def _acquire(path: Path, otherwise: str) -> int:
    """Creates a file at `path`, open and locked, that names this process."""
    for attempt in range(TRIES):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _remove_stale(path, otherwise, last=attempt == TRIES - 2)
            time.sleep(PAUSE_S if attempt else 0)
            continue
        try:
            _system_lock(handle)
            text = json.dumps(dataclasses.asdict(Holder.this())).encode()
            if os.write(handle, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(handle)
            raise
        return handle
    raise UserError(f"{path.parent} is in use by another process; {otherwise}.")


def _remove_stale(path: Path, otherwise: str, *, last: bool) -> None:
    """Removes a lock file whose holder has ended; an unnamed one if `last`.

    Raises: UserError if the holder is alive.
    """
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return  # just released
    try:
        system, holder = _system_lock(handle), _read(handle)
        if holder is None:
            stale = last and system is not False  # its creator was killed just then
        else:
            stale = bool(system) or holder.gone()
            if not stale and _is_at(path, handle):
                raise UserError(_message(path, holder, otherwise))
        if stale and _is_at(path, handle):
            path.unlink()
    finally:
        os.close(handle)


def _message(path: Path, holder: Holder, otherwise: str) -> str:
    text = (
        f"{path.parent} is in use by process {holder.pid} on {holder.host} since "
        f"{holder.since}; wait for it, or {otherwise}."
    )
    if holder.host != socket.gethostname():
        text += f" If that process has ended, delete {path}."
    return text


def _system_lock(handle: int) -> bool | None:
    """Locks an open file; False if another process has it, None without locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _read(handle: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is the one currently at this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Start time of a process; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # ended, or starttime
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()

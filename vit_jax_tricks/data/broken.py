"""Finds pictures that do not decode before training starts, once for each file."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

from vit_jax_tricks.data import decode
from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.errors import UserError


def find_broken(root: pathlib.Path, paths: Sequence[str]) -> dict[str, str]:
    """Maps broken pictures to the reason; good ones are cached by path, time and size.

    `paths` are relative to `root`. The cache is in $XDG_CACHE_HOME or ~/.cache and may
    be deleted at any time.
    """
    cache = _cache_file(root)
    known = _read(cache)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stamps = dict(
            zip(paths, pool.map(lambda p: _stamp(root / p), paths), strict=True)
        )
        new = [path for path in paths if known.get(path) != stamps[path]]
        reasons = pool.map(lambda path: _reason(root / path), new)
        watched = progress(reasons, len(new), f"checking {len(new)} pictures")
        broken = {path: why for path, why in zip(new, watched, strict=True) if why}
    good = {path: stamp for path, stamp in stamps.items() if path not in broken}
    if good != known:
        _write(cache, good)
    return broken


def _reason(path: pathlib.Path) -> str:
    try:
        if path.stat().st_size == 0:
            return "empty file"
        decode.check(path.read_bytes())
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _stamp(path: pathlib.Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_mtime_ns, status.st_size]


def _cache_file(root: pathlib.Path) -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    where = str(root.resolve()).encode(errors="surrogateescape")
    name = hashlib.blake2b(where, digest_size=12).hexdigest()
    return pathlib.Path(base).expanduser() / "vit_jax_tricks" / f"checked-{name}.json"


def _read(cache: pathlib.Path) -> dict[str, list[int]]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(cache: pathlib.Path, good: dict[str, list[int]]) -> None:
    """Writes atomically; without a writable home, the check runs again next time."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(good))
        partial.replace(cache)

"""Checkpoints that resume exactly and detect damage: Orbax plus our own checksums.

Orbax silently restores a flipped byte, and reports a save as complete even if it cannot
be read. So each checkpoint carries two kinds of CRC-32: of every file, in a manifest,
and of every leaf of the state. A save is written to a hidden folder, read back,
compared leaf by leaf, and only then renamed to its final name; older checkpoints are
deleted after that. A damaged checkpoint is moved to `damaged/`, and the one before it
is used.
"""

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import path_str
from vit_jax_tricks.state import TrainState
from vit_jax_tricks.storage.manifest import (
    MANIFEST,
    DamagedError,
    UnfinishedError,
    step_folders,
    verify_files,
    write_durably,
    write_manifest,
)
from vit_jax_tricks.storage.plain_path import plain_path


LATER = "later.json"  # score and meta that are known only after the save
LEFT_OVER = re.compile(r"\.\d+\.(part|old)|\d+\.orbax-checkpoint-tmp.*")
SOUND = ("params", "batch_stats", "ema")  # must be finite


class SaveError(UserError):
    """A checkpoint could not be written; earlier ones are intact."""


class Checkpointer:
    """Saves and restores `TrainState` and a JSON-able `meta` under `directory`.

    Keeps the newest `keep` checkpoints and also the one with the highest score.

    Args:
      directory: created on the first save.
      keep: number of the newest to keep, at least 2, so that one may be damaged.
      say: called with one line for the user when something is wrong.
    """

    def __init__(self, directory: Path, *, keep: int, say: Callable[[str], None]):
        if type(keep) is not int or keep < 2:
            raise UserError(
                f"config.checkpoint.keep={keep!r}: expected at least 2, so that a "
                "damaged newest checkpoint has one before it."
            )
        self.directory = Path(directory).absolute()
        self._say = say
        self._keep = keep
        self._orbax: ocp.StandardCheckpointer | None = None
        self._plain = contextlib.ExitStack()
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    def save(
        self,
        state: TrainState,
        meta: dict[str, Any],
        *,
        score: float | np.number | jax.Array | None = None,
    ) -> None:
        """Starts an asynchronous save of the state at its step.

        `score` (higher is better) competes for the best checkpoint; without it, the
        checkpoint only counts as one of the newest. The state of an existing checkpoint
        is never rewritten: a later score is stored beside it, with its `meta`.

        Raises:
          SaveError: this save, or the one before it, could not be written.
        """
        step = int(state.step)
        score = None if score is None else float(score)
        self.wait()
        if (self.directory / str(step) / MANIFEST).exists():
            if score is not None:
                text = _later(step, meta, score)
                self._saving = self._thread.submit(self._amend, step, text)
            return
        tree = _plain_tree(state)
        leaves = {path: [_kind(x), _crc(x)] for path, x in _leaves(tree)}
        with self._failing():
            self._check_room(sum(x.nbytes for _, x in _leaves(tree)))
            part, orbax = self._part(step), self._open()
            _remove(part)
            part.mkdir()
            (part / "meta").mkdir()
            text = json.dumps(meta | {"leaves": leaves})
            write_durably(part / "meta" / "metadata", text)
            orbax.save(self._link / part.name / "state", tree)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        later = None if score is None else _later(step, meta, score)
        self._saving = self._thread.submit(self._seal, orbax, step, shapes, later)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint as `(state, meta)`, or None if there is none.

        Damaged checkpoints are moved aside once a sound one is found; without a sound
        one, the directory is left unchanged. A run killed during its first save has
        only an unfinished checkpoint, and starts again.

        Args:
          like: arrays or `jax.ShapeDtypeStruct`s with shardings; the stored shapes must
            agree, the mesh may differ from the one that saved.

        Raises:
          UserError: all checkpoints are damaged, or `like` is another model's state.
        """
        found, damaged = None, {}
        for step in reversed(self.steps()):
            try:
                verify_files(self.directory / str(step))
                if found is None:
                    found = self._restore(step, like)
            except DamagedError as error:
                damaged[step] = error
        unfinished = [isinstance(e, UnfinishedError) for e in damaged.values()]
        if found is None and damaged and unfinished != [True]:
            listed = "; ".join(f"{step}: {why}" for step, why in damaged.items())
            raise UserError(
                f"every checkpoint in {self.directory} is damaged ({listed}); restore "
                "a copy, or start again with another workdir. Nothing was changed."
            )
        for step, why in damaged.items():
            self._set_aside(step, str(why))
        return found

    def steps(self) -> list[int]:
        """The steps on disk, sound or not."""
        return list(step_folders(self.directory))

    def wait(self) -> None:
        """Blocks until the current save is verified and has its final name.

        Raises:
          SaveError: it could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._failing():
                saving.result()

    def close(self) -> None:
        """Finishes the current save and closes Orbax."""
        orbax, self._orbax = self._orbax, None
        try:
            self.wait()
        finally:
            if orbax is not None:
                with contextlib.suppress(Exception):  # reported by `wait`
                    orbax.close()
            self._plain.close()
            self._thread.shutdown()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except SaveError:
            raise
        except Exception as error:
            _hush_other_writes()
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            if code := re.search(r"os_error_code='(\d+)'", why):  # from tensorstore
                why = os.strerror(int(code[1]))
            raise SaveError(
                f"a checkpoint could not be written to {self.directory} ({why}); "
                "earlier ones are intact. Free some space or restore access, then run "
                "the same command again."
            ) from error

    def _check_room(self, size: int) -> None:
        """Raises OSError before Orbax's threads each fail on a full disk."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.directory).free < 2 * size:
            raise OSError(errno.ENOSPC, f"less than {2 * size:,} bytes are free")

    def _open(self) -> ocp.StandardCheckpointer:
        if self._orbax is None:
            for entry in self.directory.iterdir():  # left by killed processes
                if LEFT_OVER.fullmatch(entry.name):
                    _remove(entry)
            self._link = self._plain.enter_context(plain_path(self.directory))
            self._orbax = ocp.StandardCheckpointer()
        return self._orbax

    def _part(self, step: int) -> Path:
        return self.directory / f".{step}.part"

    def _seal(
        self,
        orbax: ocp.StandardCheckpointer,
        step: int,
        shapes: dict[str, Any],
        later: str | None,
    ) -> None:
        """Checks that the save can be read, renames it, and deletes older ones."""
        orbax.wait_until_finished()
        part, target = self._part(step), self.directory / str(step)
        expected = json.loads((part / "meta" / "metadata").read_text())["leaves"]
        found = _read_arrays(self._link / part.name / "state", shapes)
        for path, leaf in _leaves(found):
            if [_kind(leaf), _crc(leaf)] != expected[path]:
                raise OSError(errno.EIO, f"{path} is read back with other values")
            if path.partition("/")[0] in SOUND and not _finite(leaf):
                raise SaveError(
                    f"the state of step {step} is not finite ({path}), so it was not "
                    f"saved to {self.directory}; earlier checkpoints are intact."
                )
        write_manifest(part)
        if later is not None:
            write_durably(part / LATER, later)
        if target.exists():  # without a manifest
            self._delete(step)
        part.rename(target)
        _sync(self.directory)
        self._delete_old()

    def _amend(self, step: int, later: str) -> None:
        write_durably(self.directory / str(step) / LATER, later)
        self._delete_old()

    def _delete_old(self) -> None:
        """Deletes all but the newest and the best; on ties, the first best is kept.

        One whose score is damaged may be the best.
        """
        steps = self.steps()
        scores = {step: _score(self.directory / str(step)) for step in steps}
        known = {step: score for step, score in scores.items() if score is not None}
        best = max(known, key=known.__getitem__, default=None)
        for step in steps[: -self._keep]:
            if step != best and not _score_damaged(self.directory / str(step)):
                self._delete(step)

    def _delete(self, step: int) -> None:
        """Renames first: a partly deleted checkpoint must not pass for a whole one."""
        old = self.directory / f".{step}.old"
        _remove(old)
        (self.directory / str(step)).rename(old)
        _remove(old)

    def _restore(
        self, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        folder = self.directory / str(step)
        meta = json.loads((folder / "meta" / "metadata").read_text())
        expected = meta.pop("leaves")
        later = _read_later(folder)
        if later is not None:
            meta = later["meta"]
        elif (folder / LATER).is_dir():
            raise DamagedError(f"{LATER} is a folder")
        elif _score_damaged(folder):
            self._say(f"{LATER} of checkpoint {step} is damaged, so its score is lost")
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain_tree(like))
        stored = {path: kind for path, (kind, _) in expected.items()}
        wanted = {path: _kind(leaf) for path, leaf in _leaves(template)}
        odd = [p for p in sorted(stored | wanted) if stored.get(p) != wanted.get(p)]
        if odd:
            there, here = stored.get(odd[0], "missing"), wanted.get(odd[0], "missing")
            raise UserError(
                f"{folder} holds the state of another model or optimizer than the "
                f"config's ({odd[0]} is {there} there, {here} here); use the config "
                "that it was trained with, or another workdir. Nothing was changed."
            )
        with plain_path(folder) as path, ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path / "state", template)
        for path, leaf in _leaves(state):
            if _crc(leaf) != expected[path][1]:
                raise DamagedError(f"checksum of {path} differs")
        return _typed(state, like), meta

    def _set_aside(self, step: int, why: str) -> None:
        target = self.directory.parent / "damaged" / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "_")
        shutil.move(self.directory / str(step), target)  # possibly to another disk
        self._say(f"checkpoint {step} is damaged ({why}), moved to {target}")


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(path_str(path), leaf) for path, leaf in leaves]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _crc(leaf: Any) -> int:
    array = np.ascontiguousarray(np.asarray(leaf))
    return zlib.crc32(array.view(np.uint8).reshape(-1).data)


def _finite(leaf: np.ndarray) -> bool:
    inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return not inexact or bool(np.isfinite(leaf).all())


def _later(step: int, meta: dict[str, Any], score: float) -> str:
    """Content of `later.json`, with the present `meta`."""
    known = None if math.isnan(score) else score
    content = {"step": step, "meta": meta, "score": known}
    return json.dumps([content, zlib.crc32(json.dumps(content).encode())])


def _read_later(folder: Path) -> dict[str, Any] | None:
    """The file written after the save; None if missing, damaged or another step's."""
    try:
        content, crc = json.loads((folder / LATER).read_text())
        sound = zlib.crc32(json.dumps(content).encode()) == crc
    except (OSError, ValueError, TypeError):
        return None
    mine = sound and str(content.get("step", folder.name)) == folder.name
    return content if mine else None


def _score_damaged(folder: Path) -> bool:
    return (folder / LATER).exists() and _read_later(folder) is None


def _score(folder: Path) -> float | None:
    """Score of a checkpoint, including those written by Orbax's manager."""
    later = _read_later(folder)
    if later is not None:
        return later["score"]
    try:
        score = json.loads((folder / "metrics" / "metrics").read_text())["score"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return score if score > -1e30 else None  # the manager's value for no score


def _remove(path: Path) -> None:
    """Removes what can be removed; a later start removes the rest."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_variables(folder: Path) -> dict[str, Any]:
    """Reads parameters, statistics and averages of a checkpoint as NumPy arrays.

    Nothing is moved or written, and the optimiser need not be known.

    Returns:
      `params` and, if present, `batch_stats` and `ema`, nested.

    Raises:
      DamagedError: its bytes differ from those written.
    """
    verify_files(folder)
    leaves = json.loads((folder / "meta" / "metadata").read_text())["leaves"]
    shapes = {
        path: _shape(kind)
        for path, (kind, _) in leaves.items()
        if path.partition("/")[0] in SOUND
    }
    with plain_path(folder) as path:
        tree = traverse_util.unflatten_dict(shapes, sep="/")
        found = _read_arrays(path / "state", tree)
    for path, leaf in _leaves(found):
        if _crc(leaf) != leaves[path][1]:
            raise DamagedError(f"checksum of {path} differs")
    return found


def _read_arrays(path: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """Reads the arrays of a stored state that occur in `shapes`, for NumPy."""
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
        what = ocp.args.PyTreeRestore(
            item=shapes, restore_args=as_numpy, partial_restore=True
        )
        return checkpointer.restore(path, args=what)


def _shape(kind: str) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a `_kind`."""
    dtype, _, shape = kind.removesuffix("]").partition("[")
    return jax.ShapeDtypeStruct(
        [int(n) for n in shape.split(",") if n], jnp.dtype(dtype)
    )


def _plain_tree(state: TrainState) -> dict[str, Any]:
    """The state as Orbax takes it, with the key as raw words, not a typed array."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        raw = jax.eval_shape(jax.random.key_data, key)
        raw = jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=key.sharding)
    else:
        raw = jax.random.key_data(key)
    return {f: getattr(state, f) for f in state.__dataclass_fields__} | {"key": raw}


def _typed(tree: dict[str, Any], like: TrainState) -> TrainState:
    key = jax.random.wrap_key_data(tree["key"])
    return like.replace(**(tree | {"key": key}))


def _hush_other_writes() -> None:
    """Silences asyncio, which logs every remaining failed write after the first.

    Orbax writes many arrays at once, and Python may report them at any later time, so
    this lasts for the rest of the process.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", ".* was never awaited", RuntimeWarning)

"""Checkpoints that resume exactly and notice damage: Orbax plus our own checksums.

Orbax writes asynchronously and commits by renaming, but restores a flipped byte without
a word. So each checkpoint carries two kinds of CRC-32: of every file, in a manifest
written once Orbax has committed (no manifest: not complete), and of every leaf of the
state, checked after restoring. A damaged checkpoint is moved to `damaged/`, and the one
before it is used.
"""

import contextlib
import errno
import json
import logging
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
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers as managers

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.sharding import path_str
from vit_jax_tricks.state import TrainState


MANIFEST = "manifest.json"
NO_SCORE = -1e30  # loses against every real score


class DamagedError(Exception):
    """A checkpoint whose bytes are not what was written."""


class UnfinishedError(DamagedError):
    """A checkpoint whose process died before its manifest was written."""


class Checkpointer:
    """Saves and restores `TrainState` and a JSON-able `meta` under `directory`.

    Keeps the newest `keep` checkpoints and, besides, the one with the highest score.

    Args:
      directory: created on the first save.
      keep: how many of the newest to keep, at least 2, so that one can be damaged.
      say: called with one line for the user when something is wrong.
    """

    def __init__(self, directory: Path, *, keep: int, say: Callable[[str], None]):
        if keep < 2:
            raise UserError(
                f"config.checkpoint.keep={keep}: expected at least 2, so that a "
                "damaged newest checkpoint has one before it."
            )
        self.directory = Path(directory).absolute()
        self._say = say
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    def save(
        self, state: TrainState, meta: dict[str, Any], *, score: float | None = None
    ) -> None:
        """Starts an asynchronous save of the state at its step.

        `score` (higher is better) competes for the best; without it the checkpoint only
        counts as one of the newest. A checkpoint that is there is kept, unless only now
        the score is known.
        """
        step = int(state.step)
        self.wait()
        tree = _plain(state)
        leaves = {path: [_kind(x), _crc(x)] for path, x in _leaves(tree)}
        with self._failing():
            self._check_room(sum(x.nbytes for _, x in _leaves(tree)))
            manager = self._open()
            if step in manager.all_steps():
                if score is None:
                    return
                manager.delete(step)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    meta=ocp.args.JsonSave(meta | {"leaves": leaves}),
                ),
                metrics={"score": NO_SCORE if score is None else score},
            )
        self._saving = self._thread.submit(self._seal, manager, step)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint as `(state, meta)`, or None if there is none.

        Damaged ones are moved aside, once a sound one is found: a directory without any
        stays as it is. A run killed within its first save has only begun one, and
        begins again.

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
                f"every checkpoint in {self.directory} is damaged ({listed}); put a "
                "copy back, or start again with another --workdir. Nothing was changed."
            )
        for step, why in damaged.items():
            self._set_aside(step, str(why))
        return found

    def steps(self) -> list[int]:
        """The steps on disk, sound or not."""
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(p.name) for p in found if p.name.isdigit())

    def wait(self) -> None:
        """Blocks until the save under way is committed and its manifest is written.

        Raises:
          UserError: it could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._failing():
                saving.result()

    def close(self) -> None:
        """Finishes the save under way and lets Orbax go."""
        manager, self._manager = self._manager, None
        try:
            self.wait()
        finally:
            if manager is not None:
                with contextlib.suppress(Exception):  # told by `wait`
                    manager.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            _hush_other_writes()
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            if code := re.search(r"os_error_code='(\d+)'", why):  # of tensorstore
                why = os.strerror(int(code[1]))
            raise UserError(
                f"a checkpoint could not be written to {self.directory} ({why}); those "
                "before it are intact. Make room or give it back, then run the same "
                "command again."
            ) from error

    def _check_room(self, size: int) -> None:
        """Raises OSError before Orbax's threads meet the trouble, each by itself."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.directory).free < 2 * size:
            raise OSError(errno.ENOSPC, f"less than {2 * size:,} bytes are free")

    def _seal(self, manager: ocp.CheckpointManager, step: int) -> None:
        manager.wait_until_finished()
        write_manifest(self.directory / str(step))

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            policies = managers.preservation_policy
            best = policies.BestN(get_metric_fn=lambda m: m["score"], n=1)
            newest = policies.LatestN(self._keep)
            options = ocp.CheckpointManagerOptions(
                best_fn=lambda m: m["score"],  # else Orbax forgets the metrics
                preservation_policy=policies.AnyPreservationPolicy([newest, best]),
                cleanup_tmp_directories=True,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager

    def _restore(
        self, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        folder = self.directory / str(step)
        meta = json.loads((folder / "meta" / "metadata").read_text())
        expected = meta.pop("leaves")
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        stored = {path: kind for path, (kind, _) in expected.items()}
        wanted = {path: _kind(leaf) for path, leaf in _leaves(template)}
        odd = [p for p in sorted(stored | wanted) if stored.get(p) != wanted.get(p)]
        if odd:
            there, here = stored.get(odd[0], "missing"), wanted.get(odd[0], "missing")
            raise UserError(
                f"{folder} holds the state of another model or optimizer than the "
                f"config's ({odd[0]} is {there} there, {here} here); use the config "
                "that it was trained with, or another --workdir. Nothing was changed."
            )
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(folder / "state", template)
        for path, leaf in _leaves(state):
            if _crc(leaf) != expected[path][1]:
                raise DamagedError(f"checksum of {path} differs")
        return _typed(state, like), meta

    def _set_aside(self, step: int, why: str) -> None:
        target = self.directory.parent / "damaged" / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "_")
        (self.directory / str(step)).rename(target)
        self._say(f"checkpoint {step} is damaged ({why}), moved to {target}")


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(path_str(path), leaf) for path, leaf in leaves]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _crc(leaf: Any) -> int:
    array = np.ascontiguousarray(np.asarray(leaf))
    return zlib.crc32(array.view(np.uint8).reshape(-1).data)


def _file_crcs(directory: Path) -> dict[str, int]:
    files = (p for p in sorted(directory.rglob("*")) if p.is_file())
    return {
        str(p.relative_to(directory)): zlib.crc32(p.read_bytes())
        for p in files
        if p.name != MANIFEST
    }


def write_manifest(directory: Path) -> None:
    """Writes the CRC-32 of every file of a committed checkpoint, atomically."""
    part = directory.parent / f".{directory.name}.{MANIFEST}"
    part.write_text(json.dumps(_file_crcs(directory)))
    part.rename(directory / MANIFEST)


def verify_files(directory: Path) -> None:
    """Raises DamagedError unless every file is as the manifest says."""
    try:
        expected = json.loads((directory / MANIFEST).read_text())
        found = _file_crcs(directory)
    except FileNotFoundError:
        raise UnfinishedError("not completely written") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"its manifest is unreadable: {error}") from None
    if found != expected:
        names = sorted({k for k in found | expected if found.get(k) != expected.get(k)})
        raise DamagedError(f"checksum of {names[0]} differs")


def read_variables(folder: Path) -> dict[str, Any]:
    """The parameters, statistics and averages of a checkpoint, as NumPy arrays.

    Nothing is moved or written, and no optimiser has to be known.

    Returns:
      `params` and, where there are any, `batch_stats` and `ema`, nested.

    Raises:
      DamagedError: its bytes are not what was written.
    """
    verify_files(folder)
    leaves = json.loads((folder / "meta" / "metadata").read_text())["leaves"]
    kinds = {
        path: kind
        for path, (kind, _) in leaves.items()
        if path.partition("/")[0] in ("params", "batch_stats", "ema")
    }
    tree = traverse_util.unflatten_dict(
        {path: _empty(kind) for path, kind in kinds.items()}, sep="/"
    )
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    with ocp.PyTreeCheckpointer() as checkpointer:
        what = ocp.args.PyTreeRestore(
            item=tree, restore_args=as_numpy, partial_restore=True
        )
        found = checkpointer.restore(folder / "state", args=what)
    for path, leaf in _leaves(found):
        if _crc(leaf) != leaves[path][1]:
            raise DamagedError(f"checksum of {path} differs")
    return found


def _empty(kind: str) -> np.ndarray:
    """An array of a `_kind`."""
    dtype, _, shape = kind.removesuffix("]").partition("[")
    return np.empty([int(n) for n in shape.split(",") if n], jax.numpy.dtype(dtype))


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as Orbax takes it: the key as raw words, no typed key arrays."""
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
    """Orbax writes many arrays at once; after one failure asyncio tells of each other.

    It does so whenever Python lets go of them, so for the rest of the process.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", ".* was never awaited", RuntimeWarning)

"""Checks whether a workdir can be used, and whether its run is the requested one."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax_tricks import __version__
from vit_jax_tricks.config import OPEN_SECTIONS, Section, defaults, located
from vit_jax_tricks.console import say
from vit_jax_tricks.data.fingerprint import changes
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.storage.manifest import step_folders, write_durably


# A different value of any of these makes a different run, with its own workdir.
IDENTITY = (
    "task",
    "seed",
    "init",
    "batch_size",
    "accumulate",
    "model",
    "data.name",
    "data.image_size",
    "data.train_split",
    "data.split_seed",
    "data.test_fraction",
    "data.examples",
    "optimizer.name",
    "ema.decay",
    "teacher",
    "quant",
)


# Names that a run writes into its workdir.
NAMES = ("config", "classes", "model", "teachers", "data")
OURS = (*(f"{name}.json" for name in NAMES), "metrics.jsonl", "report", "damaged")
BEGUN = ".begun"  # exists from the first start to the first checkpoint
LOGS = (".log", ".out", ".err", ".txt")
RESUME = ("auto", "required", "never", "new_data")


def open_workdir(workdir: Path, resume: str) -> None:
    """Creates the workdir, or checks that it is one of ours or empty.

    Raises:
      UserError: it cannot be written, holds something else, or `resume` forbids it.
    """
    if resume not in RESUME:
        names = ", ".join(f'"{name}"' for name in RESUME)
        raise UserError(f'config.resume="{resume}": expected one of {names}.')
    _refuse_foreign(workdir)
    if resume != "required" or workdir.exists():
        _check_writable(workdir)
    if resume == "never" and step_folders(workdir / "checkpoints"):
        raise UserError(
            f"config.resume=never, but {workdir} holds a run; give another "
            "workdir, or drop config.resume to resume it. Nothing was changed."
        )
    if resume == "required" and not workdir.exists():
        raise UserError(
            f"config.resume=required, but {workdir} does not exist; give the workdir "
            "of an earlier run, or resume=auto."
        )


def check_run(
    workdir: Path,
    config: Section,
    class_names: list[str],
    taught: Sequence[Mapping[str, str]],
    data: Mapping[str, Any] | None,
    resume: str,
    keys: Sequence[str] = (),
) -> None:
    """Checks that the workdir's run is this one, and prints what has changed since.

    Args:
      workdir: must exist.
      config, class_names: those of the present run.
      taught: fingerprints of teachers and packs.
      data: `fingerprint` of the data, if the task has one.
      resume: "new_data" accepts other data.
      keys: keys and sections, beside those of every run, that make another run.

    Raises:
      UserError: the workdir belongs to another run.
    """
    if not step_folders(workdir / "checkpoints"):
        return
    same_taught = [t["checksum"] for t in taught] == _checksums(workdir)
    known = {"teacher.sources", "teacher.pack"} if same_taught else set()
    if data is not None and (workdir / "data.json").exists():
        same_data = not changes(_read(workdir / "data.json", dict), data)
        known |= {"data.name"} if same_data else set()
    _check_same_run(workdir, config, class_names, known, (*IDENTITY, *keys))
    if taught and not same_taught:
        _read(workdir / "teachers.json", list)
        raise UserError(
            f"{workdir} was trained with other teacher weights, or another label "
            "pack, in the same place; put it back, or give another workdir. "
            "Nothing was changed."
        )
    if data is not None:
        _check_same_data(workdir, data, resume)


def record(
    workdir: Path,
    config: Section,
    class_names: list[str],
    model: Mapping[str, Any] | None,
    taught: Sequence[Mapping[str, str]],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`, `classes.json` and, if given, the others.

    `config.json` also names the version that wrote it.
    """
    if not step_folders(workdir / "checkpoints"):
        (workdir / BEGUN).touch()
    values = config.to_dict() | {"version": __version__}
    files: dict[str, Any] = {"config": values, "classes": class_names}
    if model is not None:
        files["model"] = model
    if taught:
        files["teachers"] = taught
    if data is not None:
        files["data"] = data
    for name, value in files.items():
        write_durably(workdir / f"{name}.json", json.dumps(value, indent=2) + "\n")


def begun_is_over(workdir: Path) -> None:
    """Removes the mark of a first start once there are checkpoints."""
    if step_folders(workdir / "checkpoints"):
        (workdir / BEGUN).unlink(missing_ok=True)


def _refuse_foreign(workdir: Path) -> None:
    """Raises UserError unless the workdir is empty or holds one of our runs.

    A first start may have been killed before its first checkpoint, but it left BEGUN.
    """
    checkpoints = workdir / "checkpoints"
    if step_folders(checkpoints) or (workdir / BEGUN).exists():
        return
    found = _visible(workdir)
    if "checkpoints" in found and checkpoints.is_dir() and not _visible(checkpoints):
        found.remove("checkpoints")
    ours = [name for name in found if name in OURS]
    if ours:
        raise UserError(
            f"{workdir} holds {', '.join(ours)}, but no checkpoints of a run; put them "
            f"back into {checkpoints}, or give another workdir. Nothing was changed."
        )
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{workdir} is not one of our runs: it holds {', '.join(found[:3])}{more}; "
            "give a new or an empty folder as workdir. Nothing was changed."
        )


def _visible(folder: Path) -> list[str]:
    """Content of a folder without hidden files, logs and system files."""
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir())
    return [
        name
        for name in names
        if not name.startswith((".", "~", "@eaDir", "lost+found", "$RECYCLE.BIN"))
        and not name.endswith((*LOGS, "~"))
        and name not in ("Thumbs.db", "desktop.ini", "System Volume Information")
    ]


def _check_same_data(workdir: Path, data: Mapping[str, Any], resume: str) -> None:
    path = workdir / "data.json"
    if not path.exists():
        say(f"{path} is not there, so data that changed since would not be noticed")
        return
    found = changes(_read(path, dict), data)
    if not found:
        return
    what = "; ".join(found)
    if resume != "new_data":
        raise UserError(
            f"the data has changed since {workdir} was begun ({what}); put it back, "
            "give another workdir, or continue with the new data by "
            "--config.resume=new_data. Nothing was changed."
        )
    say(f"the data has changed ({what}), and the run goes on with it")


def _check_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be written ({error.strerror}); give another one."
        ) from error


def _checksums(workdir: Path) -> list[str] | None:
    """Checksums of the teachers and packs, or None if the file cannot be read."""
    try:
        return [one["checksum"] for one in _read(workdir / "teachers.json", list)]
    except (UserError, LookupError, TypeError):
        return None


def _check_same_run(
    workdir: Path,
    config: Section,
    class_names: list[str],
    known: set[str],
    identity: Sequence[str],
) -> None:
    """Rejects another run; what `known` names is the same, wherever it now lies.

    `identity` are the keys that make a run.
    """
    new = json.loads(json.dumps(config.to_dict()))
    # Sections newer than the run had their defaults; a task may have dropped some.
    old = {key: value for key, value in defaults().items() if key in new}
    old |= located(_read(workdir / "config.json", dict))
    old = json.loads(json.dumps(old))
    changed = [
        (key, _get(old, key), _get(new, key))
        for key in _keys(new)
        if _get(old, key) != _get(new, key)
    ]
    others = [
        (key, before, now)
        for key, before, now in changed
        if any(_under(key, other) for other in identity)
        and _placeless(key, before, known) != _placeless(key, now, known)
    ]
    gone = [k for k in _keys(old) if _under(k, "model") and k not in _keys(new)]
    others += [(k, _get(old, k), None) for k in gone]
    if others:
        what = ", ".join(f"config.{k} was {a!r}, now {b!r}" for k, a, b in others)
        raise UserError(
            f"{workdir} holds another run: {what}; give another workdir. "
            "Nothing was changed."
        )
    if _read(workdir / "classes.json", list) != class_names:
        raise UserError(
            f"{workdir} was trained on other classes than the data has now; "
            "give another workdir. Nothing was changed."
        )
    _say_unknown(old, new)
    for key, before, now in changed:
        say(f"config.{key} was {before!r} when this run started, now {now!r}")


def _placeless(key: str, value: Any, known: set[str]) -> Any:
    """A value without the folders of its paths, and without names that are `known`.

    The initial weights are read only before the first step, so comparing names is
    enough.
    """
    if isinstance(value, list):
        return [_placeless(key, one, known) for one in value]
    if not isinstance(value, str) or key not in known | {"init"}:
        return value
    return re.sub(r"(^|[:@])/.*" + ("" if key in known else "/"), r"\1", value)


def _say_unknown(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Reports the keys of a config that a newer version wrote."""
    here = {f"config.{key}" for key in _keys(new)}
    there = [f"config.{key}" for key in _keys(old) if key != "version"]
    free = tuple(f"{section}." for section in OPEN_SECTIONS)
    unknown = [key for key in there if key not in here and not key.startswith(free)]
    if unknown:
        say(
            f"{', '.join(unknown)}: unknown to this version ({__version__}) and not "
            f"used; version {old.get('version', 'unknown')} wrote config.json"
        )


def _read(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, kind):
            raise ValueError
        return value
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is missing or unreadable, though there are checkpoints beside it; "
            "restore it, or give another workdir. Nothing was changed."
        ) from error


def _keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        inner = isinstance(value, dict)
        keys += _keys(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def _get(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _under(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")

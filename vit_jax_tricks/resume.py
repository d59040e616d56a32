"""Whether a workdir can be used, and whether the run in it is the one asked for."""

import json
from pathlib import Path
from typing import Any

from vit_jax_tricks.config import Section, defaults, located
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError


# A run with another value of these is another run: it needs its own workdir.
IDENTITY = (
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


def check_workdir(
    workdir: Path,
    config: Section,
    class_names: list[str],
    taught: list[dict[str, str]],
    resume: str,
) -> None:
    """Creates the workdir, or checks that what it holds is this run.

    Prints what changed since the last start. `taught` tells teachers and packs apart.

    Raises:
      UserError: it cannot be written, belongs to another run, or `resume` forbids it.
    """
    if resume not in ("auto", "required", "never"):
        raise UserError(
            f'config.resume="{resume}": expected "auto", "required" or "never".'
        )
    if resume != "required" or workdir.exists():
        _check_writable(workdir)
    if _has_checkpoints(workdir):
        if resume == "never":
            raise UserError(
                f"config.resume=never, but {workdir} holds a run; give another "
                "--workdir, or drop config.resume to go on. Nothing was changed."
            )
        _check_same_run(workdir, config, class_names)
        if taught and _read(workdir / "teachers.json", list) != taught:
            raise UserError(
                f"{workdir} was trained with other weights of its teacher, or another "
                "label pack, in the same place; put it back, or give another "
                "--workdir. Nothing was changed."
            )


def record(
    workdir: Path,
    config: Section,
    class_names: list[str],
    model: dict[str, Any],
    taught: list[dict[str, str]],
) -> None:
    """Writes `config.json`, `classes.json`, `model.json` and maybe `teachers.json`."""
    files = {"config": config.to_dict(), "classes": class_names, "model": model}
    if taught:
        files["teachers"] = taught
    for name, value in files.items():
        part = workdir / f".{name}.json"
        part.write_text(json.dumps(value, indent=2) + "\n")
        part.replace(workdir / f"{name}.json")


def _has_checkpoints(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def _check_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written ({error.strerror}); "
            "give another one."
        ) from error


def _check_same_run(workdir: Path, config: Section, class_names: list[str]) -> None:
    # A section that is newer than the run had its defaults.
    old = defaults() | located(_read(workdir / "config.json", dict))
    old = json.loads(json.dumps(old))
    new = json.loads(json.dumps(config.to_dict()))
    changed = [
        (key, _get(old, key), _get(new, key))
        for key in _keys(new)
        if _get(old, key) != _get(new, key)
    ]
    identity = [c for c in changed if any(_under(c[0], key) for key in IDENTITY)]
    gone = [k for k in _keys(old) if _under(k, "model") and k not in _keys(new)]
    identity += [(k, _get(old, k), None) for k in gone]
    if identity:
        what = ", ".join(f"config.{k} was {a!r}, now {b!r}" for k, a, b in identity)
        raise UserError(
            f"{workdir} holds another run: {what}; give another --workdir. "
            "Nothing was changed."
        )
    if _read(workdir / "classes.json", list) != class_names:
        raise UserError(
            f"{workdir} was trained on other classes than the data has now; "
            "give another --workdir. Nothing was changed."
        )
    for key, before, now in changed:
        say(f"config.{key} was {before!r} when this run started, now {now!r}")


def _read(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, kind):
            raise ValueError
        return value
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is missing or unreadable, though there are checkpoints beside it; "
            "restore it, or give another --workdir. Nothing was changed."
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

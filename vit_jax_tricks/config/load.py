"""Config files: ml_collections, found, run, overridden and read back from runs.

Paths in a config are absolute, however they were typed.
"""

import importlib.machinery
import importlib.util
import json
import re
import sys
import traceback
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from vit_jax_tricks import paths
from vit_jax_tricks.config.section import Section
from vit_jax_tricks.config.values import OPEN_SECTIONS, override, tuples
from vit_jax_tricks.console import say
from vit_jax_tricks.errors import UserError, nearest


# Keys that hold a path -> the function that makes it absolute.
PATHS = {
    "init": paths.weights,
    "data.name": paths.data,
    "data.data_dir": paths.absolute,
    "teacher.pack": paths.absolute,
    "teacher.sources": paths.teacher_text,  # each
}


def config_dir() -> Path:
    """Folder of our config files: beside the package, or inside it once installed."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> Section:
    """Loads `FILE[:args]` and applies `(key, value)` overrides.

    Args:
      spec: a config file, with arguments after a colon:
        `configs/deit_s.py:data=digit_scenes,epochs=5`. A value that contains a comma
        must be quoted. If `configs/NAME` does not exist, our own config of that name is
        used.
      overrides: dotted keys and values as typed, `("optimizer.lr", "1e-3")`.

    Returns:
      The config as a read-tracking view.

    Raises:
      UserError: no such file, an unknown key or argument, or a value of the wrong type.
    """
    file, arg = _split(spec)
    path = _find(file)
    config = _call_get_config(path, arg)
    for key, text in overrides:
        override(config, key, text)
    return Section(located(config.to_dict()))


def located(values: Mapping[str, Any], root: str = "config.") -> dict[str, Any]:
    """Makes the paths of a config, or of a part of one, absolute.

    `root` is the prefix of the keys in errors.

    Raises:
      UserError: a remote path.
    """
    out = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, place in PATHS.items():
        section, _, key = name.rpartition(".")
        node = out.get(section) if section else out
        if not isinstance(node, dict) or key not in node:
            continue
        value, flag = node[key], f"{root}{name}="
        if isinstance(value, str):
            node[key] = str(place(value, flag))
        elif isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            node[key] = tuple(str(place(one, flag)) for one in value)
    return out


def _split(spec: str) -> tuple[str, str]:
    """Splits a spec into file and arguments; an existing file may have colons."""
    paths.local(spec, "--config=")
    parts = spec.split(":")
    for count in range(1, len(parts) + 1):
        file = ":".join(parts[:count])
        if file and paths.local(file).is_file():
            return file, ":".join(parts[count:])
    file, found, arg = spec.partition(".py:")
    if found:
        return f"{file}.py", arg
    return parts[0], ":".join(parts[1:])


def _find(file: str) -> Path:
    path = paths.local(file, "--config=")
    ours = config_dir() / path.name
    if path.is_file():
        return path
    if path == Path("configs") / path.name and ours.is_file():
        return ours
    names = [f"configs/{p.name}" for p in config_dir().glob("*.py")]
    hint = nearest(file, [n for n in names if not n.endswith("common.py")])
    raise UserError(f'--config: there is no file "{file}".{hint}')


class _Loader(importlib.machinery.SourceFileLoader):
    """Leaves no __pycache__ beside a user's file."""

    def set_data(self, *args: Any, **kwargs: Any) -> None:
        pass


def _call_get_config(path: Path, arg: str) -> ml_collections.ConfigDict:
    _make_importable()
    name = f"_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_Loader(name, str(path))
    )
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is not a Python file; give a .py file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(
                f"--config: {path} defines no get_config(arg); see configs/digits.py."
            )
        config = module.get_config(arg)
        if not isinstance(config, ml_collections.ConfigDict):
            raise UserError(
                f"--config: get_config of {path} returned {type(config).__name__}; "
                "expected an ml_collections.ConfigDict, as in configs/digits.py."
            )
        return config
    except UserError:
        raise
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}"
        raise UserError(f"--config: {where}: {error.msg}.") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        why = str(error).partition(" Other fields present")[0]  # all of them follow
        if key := re.search(r'Key "(\w+)" does not exist', why):
            why += nearest(key[1], _names(defaults()))
        raise UserError(f"--config: {where}: {type(error).__name__}: {why}") from error


def defaults() -> dict[str, Any]:
    """Every key of `configs/common.py` with its default."""
    return _common().to_dict()


def typed(
    section: str, pairs: Iterable[tuple[str, str]], path: str | None = None
) -> dict[str, Any]:
    """Reads the keys of one section from text, typed by their defaults.

    Args:
      section: "data", "quant" and so on.
      pairs: keys and values as typed.
      path: the section as typed, for errors; by default `config.SECTION`.

    Raises:
      UserError: an unknown key, a value of the wrong type, or a remote path.
    """
    path = path or f"config.{section}"
    pairs = list(pairs)
    out: Any = _common()[section]
    for key, text in pairs:
        override(out, key, text, path)
    values = out.to_dict()
    given = {section: {key: values[key] for key, _ in pairs}}
    return located(given, path.removesuffix(section))[section]


def filled(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the recorded values of one section with the defaults.

    Raises:
      UserError: an unknown key, or a value of the wrong type.
    """
    out: Any = _common()[section]
    for key, value in values.items():
        if key not in out:
            hint = nearest(key, out)
            raise UserError(f"config.{section}.{key}: there is no such key.{hint}")
        try:
            out[key] = tuples(value)
        except (TypeError, ValueError) as error:
            kind = out.get_type(key).__name__
            raise UserError(
                f"config.{section}.{key}={value!r}: expected {kind}."
            ) from error
    return out.to_dict()


def _names(values: Mapping[str, Any]) -> set[str]:
    """The keys of a config and of its sections."""
    inner = (_names(value) for value in values.values() if isinstance(value, Mapping))
    return set(values).union(*inner)


def _common() -> ml_collections.ConfigDict:
    _make_importable()
    return importlib.import_module("configs.common").get_config()


def of_run(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config of a run, for editing; keys newer than the run have their defaults.

    Raises:
      UserError: the folder holds no readable config.json.
    """
    try:
        values = tuples(recorded(workdir))
        out = _common()
        with out.unlocked():
            for key in values.keys() & {"model", "loss"}:
                out[key] = ml_collections.ConfigDict(values.pop(key))
            unknown = []
            for key, value in values.items():
                section: Any = out.get(key)
                if key not in out:
                    unknown.append(key)
                elif isinstance(value, dict):
                    unknown += [f"{key}.{name}" for name in value.keys() - section]
                    section.update({k: v for k, v in value.items() if k in section})
                else:
                    out[key] = value
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unreadable(workdir) from error
    if unknown:
        named = ", ".join(f"config.{key}" for key in sorted(unknown))
        say(f"{named} of {workdir}: unknown to this version and not used")
    return out


def section_of_run(workdir: str | Path) -> Section:
    """The config of a run, for reading, with the sections of its own task.

    Keys newer than the run have their defaults.

    Raises:
      UserError: the folder holds no readable config.json.
    """
    values = tuples(recorded(workdir))
    free = {path.removeprefix("config.") for path in OPEN_SECTIONS}
    for key, default in defaults().items():
        if isinstance(default, dict) and key not in free:
            values[key] = {**default, **values.get(key, {})}
        else:
            values.setdefault(key, default)
    return Section(values)


def task_of_run(workdir: str | Path) -> str:
    """The name of a run's task; a folder that states none has the default one."""
    default = defaults()["task"]
    try:
        return str(recorded(workdir).get("task", default))
    except UserError:
        return default


def recorded(workdir: str | Path) -> dict[str, Any]:
    """The config.json of a run with absolute paths, without the version.

    Raises:
      UserError: the file is missing or unreadable.
    """
    try:
        file = paths.absolute(workdir) / "config.json"
        values = json.loads(file.read_text("utf-8"))
        return located({k: v for k, v in values.items() if k != "version"})
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _unreadable(workdir) from error


def _unreadable(workdir: str | Path) -> UserError:
    return UserError(
        f"{workdir} holds no run with a readable config.json; give the workdir of a "
        "run."
    )


def _make_importable() -> None:
    """Makes `from configs import common` work anywhere."""
    if "configs" not in sys.modules:
        package = types.ModuleType("configs")
        package.__path__ = [str(config_dir())]
        sys.modules["configs"] = package

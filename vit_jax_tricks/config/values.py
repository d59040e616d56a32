"""Values of a config from text: typed by their defaults."""

import ast
import math
import re
from typing import Any

import ml_collections

from vit_jax_tricks.errors import UserError, nearest


# Sections with keys beyond common.py's; create_model and Objective check them.
OPEN_SECTIONS = ("config.model", "config.loss")
# key=value or key, up to a comma; a value may be quoted.
ARGUMENT = r"""([^,=]*)(?:(=)("[^"]*"|'[^']*'|[^,]*))?(?:,|$)"""


def parse_arg(arg: str, **defaults: Any) -> ml_collections.ConfigDict:
    """Parses a config's arguments, as `recipe=source,epochs=5`, typed by defaults.

    A value that contains a comma must be quoted: `data="folder:/photos,
    2024",epochs=5`.

    Raises:
      UserError: an argument that the config does not take, or a value of the wrong
        type.
    """
    out = ml_collections.ConfigDict(defaults)
    for key, equals, text in re.findall(ARGUMENT, arg):
        if not key and not equals:
            continue
        if key not in defaults:
            hint = nearest(key, defaults)
            if not equals:
                hint += " A value that contains a comma must be in quotes."
            raise UserError(f'config argument "{key}" is unknown.{hint}')
        if text[:1] in ("'", '"') and text[-1:] == text[0] and len(text) > 1:
            text = text[1:-1]
        _assign(out, key, text if equals else "True", f"config argument {key}")
    return out


def argument(key: str, value: str) -> str:
    """Formats `key="value"` for `parse_arg`."""
    quote = "'" if '"' in value else '"'
    return f"{key}={quote}{value}{quote}"


def parse_value(text: str) -> Any:
    """A value from the command line: a Python literal, or else the string itself."""
    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def tuples(value: Any) -> Any:
    """Converts JSON lists to tuples, recursively."""
    if isinstance(value, list | tuple):
        return tuple(map(tuples, value))
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return value


def override(
    config: ml_collections.ConfigDict, key: str, text: str, path: str = "config"
) -> None:
    """Sets a dotted key from text; `path` names the config in errors."""
    *parents, last = key.split(".")
    node: Any = config
    for name in parents:
        if path == "config.loss" and name not in node:
            with node.unlocked():
                node[name] = ml_collections.ConfigDict()  # a new term of the loss
        if not isinstance(node.get(name), ml_collections.ConfigDict):
            raise UserError(_unknown(f"{path}.{name}", name, node))
        node, path = node[name], f"{path}.{name}"
    if last not in node and not path.startswith(OPEN_SECTIONS):
        raise UserError(_unknown(f"{path}.{last}", last, node))
    if isinstance(node.get(last), ml_collections.ConfigDict):
        inner = ", ".join(f"{path}.{last}.{k}" for k in node[last])
        raise UserError(f"{path}.{last} is a section; set one of {inner}.")
    with node.unlocked():
        _assign(node, last, text, f"{path}.{last}")


def _unknown(path: str, name: str, node: ml_collections.ConfigDict) -> str:
    return f"{path}: there is no such key.{nearest(name, node.keys())}"


def _assign(node: Any, key: str, text: str, path: str) -> None:
    fields = dict(node.items(preserve_field_references=True))
    optional = isinstance(fields.get(key), ml_collections.FieldReference)
    kind = node.get_type(key) if key in node else type(None)
    old: Any = node.get(key, ())
    value: Any = parse_value(text)
    if value is None and optional:
        node[key] = None
        return
    if kind is str:
        value = text
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is tuple and isinstance(value, str):
        value = tuple(value.split(","))  # names
    if kind in (bool, int, float, tuple):
        fits = _number(value) if kind in (int, float) else isinstance(value, kind)
        if isinstance(value, tuple) and fits and old:  # a range: two numbers
            fits = len(value) == len(old) and all(map(_number, value))
    else:
        fits = True
    try:
        if not fits:
            raise TypeError
        node[key] = value
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}={text}: expected {kind.__name__}, such as {old!r}."
        ) from error


def _number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)

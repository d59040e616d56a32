"""Reads a command line into a dataclass of options, and formats its help."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from vit_jax_tricks.commands.options import Declared, Group, Option, declared, title
from vit_jax_tricks.errors import UserError, nearest


T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str]) -> T:
    """Reads the options; `--flag=VALUE` and `--flag VALUE` are equivalent.

    Args:
      kind: a dataclass whose fields the functions of `options` made.
      argv: the arguments without the program's name.

    Raises:
      UserError: an unknown flag, a value that is missing or not allowed, or flags that
        contradict one another.
    """
    known = {one.flag: one for one in declared(kind)}
    parser = _parser(one for one in known.values() if one.option.form != "section")
    keys: dict[str, tuple[str, str]] = {}  # SECTION.KEY -> SECTION. and KEY
    for word in argv:
        flag = word.partition("=")[0].removeprefix("--")
        section = next((s for s in known if s[-1] == "." and flag.startswith(s)), None)
        if word.startswith("--") and section and flag not in {*known, *keys}:
            keys[flag] = section, flag.removeprefix(section)
            parser.add_argument(f"--{flag}", dest=flag, nargs="?", action="append")
    try:
        namespace, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:  # a switch that has a value
        flag = error.argument_name
        raise UserError(f"{flag} takes no value; type {flag} alone.") from error
    words = next((one for one in known.values() if one.option.form == "words"), None)
    for word in rest:
        if word.startswith("--") or words is None:
            raise UserError(_unknown(word, known.values()))
    texts: dict[str, Any] = {words.flag: rest} if words else {}
    for flag, text in vars(namespace).items():
        if text in (None, "") or (flag in keys and None in text):
            raise UserError(f"--{flag} needs a value: --{flag}=...")
        if flag in keys:
            section, key = keys[flag]
            texts.setdefault(section, []).extend((key, one) for one in text)
        else:
            texts[flag] = text
    for one in known.values():
        if one.flag in texts:
            _check(one, vars(namespace))
    return _made(kind, known, texts)


def _check(one: Declared, given: Iterable[str]) -> None:
    """Refuses an option that does nothing, or that contradicts another one."""
    needed = one.option.needs
    if needed and one.group.flag(needed) not in given:
        raise UserError(f"--{one.flag} is for --{needed}; add it or leave both out.")
    what, excluded = one.option.brings
    for name in map(one.group.flag, excluded):
        clash = [flag for flag in given if fnmatchcase(flag, name)]
        if clash:
            raise UserError(f"--{one.flag} has {what}; leave --{min(clash)} out.")


def _made(kind: type[T], known: Mapping[str, Declared], texts: Mapping[str, Any]) -> T:
    values: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for flag, text in texts.items():
        *outer, name = known[flag].names
        place = groups.setdefault(outer[0], {}) if outer else values
        typed = f"--{flag}".removesuffix(".")
        place[name] = known[flag].option.read(text, typed)
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        option = field.metadata["option"]
        if isinstance(option, Group):
            values[field.name] = option.kind(**groups.get(field.name, {}))
    return kind(**values)


def _unknown(word: str, known: Iterable[Declared]) -> str:
    given = word.partition("=")[0]
    key = given.partition(".")[2]
    flags, expected = [], []
    for one in known:
        flag = f"--{one.flag}"
        if one.option.form == "section":
            flags += [f"{flag}{key}"] if key else []
            expected.append(f"{flag}KEY=...")
        elif one.option.form != "words":
            flags.append(flag)
            expected.append(flag if one.option.form == "switch" else f"{flag}=...")
    hint = nearest(f"--{given.lstrip('-')}", flags) if given.startswith("-") else ""
    if "Did you mean" not in hint:
        hint = f" Expected: {', '.join(expected)} (see --help)."
    return f"{given}: unknown argument.{hint}"


def usage(kind: type, description: str) -> str:
    """The text of --help: a description, then the options by group."""
    option = Option("switch", "show this text", "", lambda *_: True)
    help = Declared(("help",), "help", option, Group(kind, "", "", title(kind)))
    parser = _parser([*declared(kind), help], description=description.strip())
    return parser.format_help().rstrip()


def _parser(known: Iterable[Declared], **more: Any) -> argparse.ArgumentParser:
    """Values are optional here and read later, so that `parse` explains all errors."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        **more,
    )
    groups: dict[str, Any] = {}
    for one in known:
        option = one.option
        if option.form == "words":
            continue
        if one.title not in groups:
            groups[one.title] = parser.add_argument_group(one.title)
        shown = "" if option.shown is None else f" (default: {option.shown})"
        form: dict[str, Any] = {"nargs": "?", "metavar": option.metavar}
        if option.form == "switch":
            form = {"action": "store_const", "const": True}
        elif option.form == "section":
            form["action"] = "append"
        groups[one.title].add_argument(
            f"--{one.flag}{'KEY' * (option.form == 'section')}",
            dest=one.flag,
            help=f"{option.help}{shown}".replace("%", "%%"),
            **form,
        )
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows options as they are typed: --flag=VALUE."""

    def __init__(self, prog: str, **more: Any):
        super().__init__(prog, max_help_position=27, width=88, **more)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = action.option_strings[0]
        return flag if action.nargs == 0 else f"{flag}={action.metavar}"

"""Declares a command's options: the fields of a frozen dataclass.

Each field is made by a function below, which says how its text is read, what is allowed
and what `--help` shows. `command_line.parse` makes the dataclass from what was typed.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax_tricks.errors import UserError, nearest


WIDEST = 20  # letters of the choices after a flag in --help
Pairs = Iterable[tuple[str, str]]  # of --SECTION.KEY=VALUE, as typed


@dataclasses.dataclass(frozen=True)
class Option:
    """The command-line form of an option.

    Attributes:
      form: "value", "switch", "section" (`--FLAG.KEY=VALUE`) or "words" (no flag).
      read: the value from the text, or from the pairs or words, and the flag as typed.
      flag: without its dashes; by default the name of the field.
      shown: the default, as `--help` shows it.
      needs: the switch without which the option does nothing.
      brings: what it stands for, and patterns of the flags that it excludes therefore.
    """

    form: str
    help: str
    metavar: str
    read: Callable[[Any, str], Any]
    flag: str = ""
    shown: Any = None
    needs: str = ""
    brings: tuple[str, tuple[str, ...]] = ("", ())


@dataclasses.dataclass(frozen=True)
class Group:
    """Options of another dataclass; `flag` is the full name of one of its flags."""

    kind: type
    prefix: str
    root: str
    title: str  # in --help

    def flag(self, name: str) -> str:
        if not self.prefix:
            return name
        return self.prefix if name == self.root else f"{self.prefix}.{name}"


@dataclasses.dataclass(frozen=True)
class Declared:
    """An option of a dataclass or of a group in it.

    `flag` is its name in full, without dashes; that of a section ends with a dot.
    """

    names: tuple[str, ...]  # of the fields that lead to it
    flag: str
    option: Option
    group: Group

    @property
    def title(self) -> str:
        """The heading in `--help`."""
        return self.group.title


def declared(kind: type, within: Group | None = None) -> Iterator[Declared]:
    """All options of a dataclass, in order."""
    here = within or Group(kind, "", "", title(kind))
    for field in dataclasses.fields(kind):
        option = field.metadata["option"]
        if isinstance(option, Group):
            for inner in declared(option.kind, option):
                names = (field.name, *inner.names)
                yield dataclasses.replace(inner, names=names)
        else:
            flag = here.flag(option.flag or field.name)
            flag += "." if option.form == "section" else ""
            yield Declared((field.name,), flag, option, here)


def group(kind: type, prefix: str = "", root: str = "", heading: str = "") -> Any:
    """Options that several commands share.

    With a prefix, they are typed as `--PREFIX.FLAG`, and the one named `root` as
    `--PREFIX`. The heading in --help is by default the docstring.
    """
    option = Group(kind, prefix, root, heading or title(kind))
    return dataclasses.field(default_factory=kind, metadata={"option": option})


def text(help: str, metavar: str, default: str | None = None, **more: Any) -> Any:
    """Any text."""
    return _field(default, "value", help, metavar, lambda text, _: text, **more)


def path(
    help: str,
    metavar: str,
    *,
    place: str = "absolute",
    ending: str = "",
    default: Any = None,
    **more: Any,
) -> Any:
    """A path, read by the function `place` of `vit_jax_tricks.paths`."""
    located = _placed(place)

    def read(text: str, flag: str) -> Any:
        path = located(text, flag)
        if not text.endswith(ending):
            raise UserError(f"{flag}={text}: expected a name that ends in {ending}.")
        return path

    return _field(default, "value", help, metavar, read, **more)


def whole(help: str, default: int | None, *, least: int = 1, **more: Any) -> Any:
    """A whole number, at least `least`."""

    def read(text: str, flag: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise UserError(
                f"{flag}={text}: expected a whole number, at least {least}."
            )
        return int(text)

    return _field(default, "value", help, "N", read, **more)


def share(help: str, default: float) -> Any:
    """A number above 0, at most 1."""

    def read(text: str, flag: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= 1:
            raise UserError(
                f"{flag}={text}: expected a share above 0, at most 1, such as 0.6."
            )
        return value

    return _field(default, "value", help, "SHARE", read)


def choice(
    help: str, choices: Sequence[str], default: str | None = None, **more: Any
) -> Any:
    """One of the choices."""

    def read(text: str, flag: str) -> str:
        if text not in choices:
            raise UserError(f"{flag}={text}: unknown.{nearest(text, choices)}")
        return text

    metavar = "|".join(choices)
    if len(metavar) > WIDEST:
        help, metavar = f"{help}: {', '.join(choices)}", "NAME"
    return _field(default, "value", help, metavar, read, **more)


def truth(help: str) -> Any:
    """True or false; None if the option is left out."""

    def read(text: str, flag: str) -> bool:
        known = {"true": True, "false": False}
        if text not in known:
            raise UserError(f"{flag}={text}: unknown.{nearest(text, known)}")
        return known[text]

    return _field(None, "value", help, "true|false", read)


def grid(help: str, **more: Any) -> Any:
    """Rows and columns, such as 14x14, or one number for both."""

    def read(text: str, flag: str) -> tuple[int, int]:
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text, re.ASCII)
        if match is None:
            raise UserError(f"{flag}={text}: expected rows and columns, such as 14x14.")
        return int(match[1]), int(match[2] or match[1])

    return _field(None, "value", help, "ROWSxCOLUMNS", read, **more)


def switch(help: str, **more: Any) -> Any:
    """A flag without a value."""
    return _field(False, "switch", help, "", lambda *_: True, shown=None, **more)


def section(
    help: str, flag: str, read: Callable[[Pairs, str], Mapping[str, Any]] | None = None
) -> Any:
    """Any number of `--FLAG.KEY=VALUE`: what `read` returns, or a tuple of `Pairs`."""
    as_typed = read is None
    option = Option("section", help, "VALUE", read or (lambda p, _: tuple(p)), flag)
    return dataclasses.field(
        default_factory=tuple if as_typed else dict, metadata={"option": option}
    )


def words(metavar: str, *, place: str | None = None) -> Any:
    """Words without a flag; if they are paths, `place` of `paths` reads each."""

    def read(words: Iterable[str], flag: str) -> tuple[Any, ...]:
        return tuple(_placed(place)(word, "") if place else word for word in words)

    return _field((), "words", "", metavar, read)


def _field(default: Any, *how: Any, **more: Any) -> Any:
    option = Option(*how, **{"shown": default, **more})
    return dataclasses.field(default=default, metadata={"option": option})


def title(kind: type) -> str:
    """The heading of a dataclass of options: its docstring."""
    return (kind.__doc__ or "").partition(".")[0]


def _placed(place: str) -> Callable[[str, str], Any]:
    def read(text: str, flag: str) -> Any:
        from vit_jax_tricks import paths

        return getattr(paths, place)(text, flag and f"{flag}=")

    return read

"""Shared parts of the commands: command lines, one-line errors, stopping.

Paths on the command line become absolute here.
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from vit_jax_tricks.commands import command_line


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

T = TypeVar("T")

# Flags of the commands that take a trained model; `commands.model` reads them.
MODEL_VALUES = ("workdir", "model", "weights", "num_classes", "ema", "resize")
MODEL_USAGE = """\
  --workdir=DIR          a run: its model, newest checkpoint, classes, preprocessing;
  --model=NAME           or else a name of list_models(), together with
  --weights=SOURCE       a .safetensors, .npz or .pth file, a workdir, hub:owner/name
  --num_classes=K        number of classes of the head; by default that of the weights
  --model.KEY=VALUE      override one field of the model: --model.img_size=384
  --ema=true|false       averaged or plain weights; by default averaged if available
  --resize=HOW           area (fast), or pil_bicubic, bit-identical to the references
"""


# Flags and section keys whose values hold a path -> the function of `paths` that reads
# them. Paths in the section `config` are made absolute by `config.load`.
PATHS = {
    **dict.fromkeys(("workdir", "out", "output", "picture", "labels"), "absolute"),
    **dict.fromkeys(("from", "teacher", "data.data_dir"), "absolute"),
    **dict.fromkeys(("weights", "teacher.weights"), "weights"),
    "data": "data",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    `values` maps `--flag=VALUE` and `--switch` (as "true") by flag name; `sections`
    lists the pairs of `--section.KEY=VALUE` by section; `words` holds the rest. All are
    as typed, except the paths of `PATHS`, which are absolute.
    """

    values: dict[str, str]
    sections: dict[str, list[tuple[str, str]]]
    words: list[str]

    def get(self, flag: str, default: Any = None) -> Any:
        return self.values.get(flag, default)

    def whole(self, flag: str, default: int | None, least: int = 1) -> int | None:
        """Reads a whole number, at least `least`."""
        from vit_jax_tricks.errors import UserError

        text = self.values.get(flag)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise UserError(
                f"--{flag}={text}: expected a whole number, at least {least}."
            )
        return int(text)

    def choice(self, flag: str, choices: Sequence[str], default: Any = None) -> Any:
        """Reads one of the choices."""
        from vit_jax_tricks.errors import UserError, nearest

        text = self.values.get(flag, default)
        if text is not None and text not in choices:
            hint = nearest(text, choices)
            raise UserError(f"--{flag}={text}: unknown.{hint}")
        return text

    def literals(self, section: str) -> dict[str, Any]:
        """A section as keyword arguments, with values parsed as Python literals."""
        from vit_jax_tricks.config import parse_value

        return {key: parse_value(text) for key, text in self.sections[section]}


def parse(
    argv: Sequence[str],
    *,
    values: Sequence[str],
    switches: Sequence[str] = (),
    sections: Sequence[str] = (),
    words: bool = False,
) -> Arguments:
    """Parses a command line; `--flag=VALUE` and `--flag VALUE` are equivalent.

    Args:
      argv: the arguments without the program's name.
      values, switches: the flags with and without a value.
      sections: names that take `--NAME.KEY=VALUE`.
      words: whether words without `--` are expected.

    Raises:
      UserError: anything else.
    """
    from vit_jax_tricks import paths
    from vit_jax_tricks.errors import UserError, nearest

    known = [f"--{f}" for f in (*values, *switches)]
    parsed = Arguments({}, {name: [] for name in sections}, [])
    rest = list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        section, dot, key = flag.removeprefix("--").partition(".")
        keyed = flag.startswith("--") and bool(dot) and section in sections
        if words and not flag.startswith("--"):
            parsed.words.append(flag + equals + value)
            continue
        if not keyed and flag not in known:
            near = nearest(flag, known) if flag.startswith("--") else ""
            hint = near if "Did you mean" in near else ""
            expected = [f"--{f}=..." for f in values] + [f"--{f}" for f in switches]
            expected += [f"--{name}.KEY=VALUE" for name in sections]
            raise UserError(
                f"{flag}: unknown argument.{hint} Expected: {', '.join(expected)} "
                "(see --help)."
            )
        if flag.removeprefix("--") in switches:
            if equals:
                raise UserError(f"{flag} takes no value; type {flag} alone.")
            value = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{flag} needs a value: {flag}=...")
            value = rest.pop(0)
        name = flag.removeprefix("--")
        if not value and (not keyed or name in PATHS):
            raise UserError(f"{flag} needs a value: {flag}=...")
        if name in PATHS:
            value = str(getattr(paths, PATHS[name])(value, f"{flag}="))
        if keyed:
            parsed.sections[section].append((key, value))
        else:
            parsed.values[name] = value
    return parsed


def main(
    kind: type[T],
    body: Callable[[T, "Stop"], object],
    argv: list[str] | None,
    description: str | None,
) -> int:
    """Runs a command and returns its exit status; errors are one line.

    Args:
      kind: its options, a dataclass whose fields the functions of `options` made.
      body: what it does.
      argv: the arguments; None means those of the process.
      description: what --help shows above the options.
    """
    return run(
        lambda argv, stop: body(command_line.parse(kind, argv), stop),
        argv,
        lambda: command_line.usage(kind, description or ""),
    )


def run(
    body: Callable[[list[str], "Stop"], object],
    argv: list[str] | None,
    usage: str | Callable[[], str],
) -> int:
    """Runs a command and returns its exit status; a UserError prints one line."""
    from vit_jax_tricks.stop import Stop, Stopped

    argv = sys.argv[1:] if argv is None else argv
    stop = Stop()
    with stop.installed(), _printing():
        try:
            if {"--help", "-h"} & set(argv):
                print((usage if isinstance(usage, str) else usage()).strip())
            else:
                body(argv, stop)
            if sys.stdout is not None:
                sys.stdout.flush()
        except Stopped as stopped:
            return stopped.code
        except Exception as error:
            from vit_jax_tricks.console import explain, fail

            line = explain(error)
            if line is None:
                raise
            fail(line)
            return 1
    return 0


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Escapes letters that standard output cannot show; ignores a closed output.

    Otherwise, Python would report a closed output once more when the process ends.
    """
    out = sys.stdout
    errors = getattr(out, "errors", None)
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if isinstance(out, io.TextIOWrapper):
            try:
                out.flush()
                out.reconfigure(errors=errors)
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

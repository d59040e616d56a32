"""What every command shares: reading the command line, one-line errors, stopping.

Paths on the command line become absolute here.
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


# Flags of the commands that take a trained model; `model_flags` reads them.
MODEL_VALUES = ("workdir", "model", "weights", "num_classes", "ema", "resize")
MODEL_USAGE = """\
  --workdir=DIR          a run: its model, newest checkpoint, classes, preprocessing
  --model=NAME           or a name of list_models(), with
  --weights=SOURCE       a .safetensors, .npz or .pth file, a workdir, hub:owner/name
  --num_classes=K        classes of the head; as in the weights when left out
  --model.KEY=VALUE      an override of the model, such as --model.img_size=384
  --ema=true|false       averaged or plain weights; averaged where there are any
  --resize=HOW           area, fast, or pil_bicubic, to the bit as the references
"""


# Flags, and keys of sections, whose values hold a path: the function of `paths`. Those
# of the section `config` are made absolute by `config.load`.
PATHS = {
    **dict.fromkeys(("workdir", "out", "output", "picture", "labels"), "absolute"),
    **dict.fromkeys(("from", "teacher", "data.data_dir"), "absolute"),
    **dict.fromkeys(("weights", "teacher.weights"), "weights"),
    "data": "data",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line, split.

    `values` holds `--flag=VALUE` and `--switch` (as "true") by flag name, `sections`
    the pairs of `--section.KEY=VALUE` by section, `words` the rest, all as typed but
    for the paths of `PATHS`, which are absolute.
    """

    values: dict[str, str]
    sections: dict[str, list[tuple[str, str]]]
    words: list[str]

    def get(self, flag: str, default: Any = None) -> Any:
        return self.values.get(flag, default)

    def whole(self, flag: str, default: int | None, least: int = 1) -> int | None:
        """A whole number, at least `least`."""
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
        """One of the choices."""
        from vit_jax_tricks.errors import UserError, nearest

        text = self.values.get(flag, default)
        if text is not None and text not in choices:
            hint = nearest(text, choices)
            raise UserError(f"--{flag}={text}: unknown.{hint}")
        return text

    def literals(self, section: str) -> dict[str, Any]:
        """A section as keyword arguments, its values read as Python literals."""
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
    """Splits a command line; `--flag=VALUE` and `--flag VALUE` are the same.

    Args:
      argv: without the program's name.
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


def run(
    body: Callable[[list[str], "Stop"], None], argv: list[str] | None, usage: str
) -> int:
    """Runs a command and returns its exit status; what a user can cause is one line."""
    from vit_jax_tricks.stop import Stop, Stopped

    argv = sys.argv[1:] if argv is None else argv
    stop = Stop()
    with stop.installed(), _printing():
        try:
            if {"--help", "-h"} & set(argv):
                print(usage.strip())
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
    """Letters that standard output cannot show are escaped; a closed one stays silent.

    Python would complain of a closed one once more at the end of the process.
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

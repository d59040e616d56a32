"""Runs a command: its options, its output, one-line errors, stopping."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from vit_jax_tricks.commands import command_line


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

T = TypeVar("T")


def run(
    kind: type[T],
    body: Callable[[T, "Stop"], object],
    argv: list[str] | None,
    description: str | None,
) -> int:
    """Runs a command and returns its exit status; a UserError prints one line.

    Args:
      kind: its options, a dataclass whose fields the functions of `options` made.
      body: what it does.
      argv: the arguments; None means those of the process.
      description: what --help shows above the options.
    """
    from vit_jax_tricks.stop import Stop, Stopped

    argv = sys.argv[1:] if argv is None else argv
    stop = Stop()
    with stop.installed(), _printing():
        try:
            if {"--help", "-h"} & set(argv):
                print(command_line.usage(kind, description or ""))
            else:
                body(command_line.parse(kind, argv), stop)
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

"""Shows models and data: `python -m vit_jax_tricks.inspect WHAT ...`.

WHAT is one of:
  models     the table of all models, as Markdown
  augment    the effect of a config's augmentation on training images, as a PNG

`python -m vit_jax_tricks.inspect WHAT --help` shows its options.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

MODELS = """Shows all models: `python -m vit_jax_tricks.inspect models`.

Writes a table of sizes, costs and published accuracies, as Markdown.

Examples:
  python -m vit_jax_tricks.inspect models
  python -m vit_jax_tricks.inspect models --output=docs/models.md
"""
AUGMENT = """Shows an augmentation: `python -m vit_jax_tricks.inspect augment`.

Draws some training images after each stage of a config's augmentation, a row for each.

Examples:
  python -m vit_jax_tricks.inspect augment --config=configs/deit_s.py
  python -m vit_jax_tricks.inspect augment --config.augment.erasing=0.5 --images=4
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class What:
    """The table or picture to show."""

    what: tuple[str, ...] = options.words("WHAT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """Options."""

    output: Path | None = options.path("file to write", "FILE", shown="the screen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Options."""

    output: Path = options.path(
        "file to write", "OUT.png", ending=".png", default=Path("augment.png")
    )
    config: str = options.text(
        "a config file", "FILE[:args]", default="configs/digits.py"
    )
    keys: options.Pairs = options.section(
        "set one value, such as --config.augment.erasing=0.5", "config"
    )
    images: int = options.whole("number of images", 8)
    step: int = options.whole("the step of the run whose draws are shown", 0, least=0)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "models":
        return command.run(Models, _models, argv[1:], MODELS)
    if argv and argv[0] == "augment":
        return command.run(Augment, _augment, argv[1:], AUGMENT)
    return command.run(What, _unknown, argv, __doc__)


def _models(options: Models, stop: "Stop") -> None:
    from vit_jax_tricks.commands import inspect

    inspect.models(**vars(options))


def _augment(options: Augment, stop: "Stop") -> None:
    from vit_jax_tricks.commands import inspect

    inspect.augment(**vars(options))


def _unknown(options: What, stop: "Stop") -> None:
    from vit_jax_tricks.errors import UserError, nearest

    what = options.what[0] if options.what else "(nothing)"
    raise UserError(f"inspect {what}: unknown.{nearest(what, ('augment', 'models'))}")


if __name__ == "__main__":
    sys.exit(main())

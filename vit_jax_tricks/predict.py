"""Classifies pictures: `python -m vit_jax_tricks.predict --workdir=DIR IMAGE...`.

Prints the most probable classes of each picture. Pictures are prepared as in the
model's evaluation: its own size, crop, resampling and normalisation.

Examples:
  python -m vit_jax_tricks.predict --workdir=runs/digits --picture=out.png a.png b.jpg
  python -m vit_jax_tricks.predict --model=deit_small_patch16_224 \\
      --weights=deit_s.safetensors --labels=names.txt a.jpg
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command, groups, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The prediction."""

    model: groups.Model = options.group(groups.Model)
    files: tuple[str, ...] = options.words("IMAGE")
    labels: Path | None = options.path(
        "names of the classes, one per line, or a .json list", "FILE"
    )
    top: int = options.whole("number of classes to print", 5)
    picture: Path | None = options.path(
        "also draw the pictures beside their classes", "OUT.png", ending=".png"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _predict, argv, __doc__)


def _predict(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import predict

    predict.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

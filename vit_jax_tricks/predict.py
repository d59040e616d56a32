"""Classifies pictures: `python -m vit_jax_tricks.predict --workdir=DIR IMAGE...`.

Prints the most probable classes of each picture. Pictures are prepared as in the
model's evaluation: its own size, crop, resampling and normalisation.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --labels=FILE          names of the classes, one per line, or a .json list
  --top=5                number of classes to print
  --picture=OUT.png      also draw the pictures beside their classes
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_predict, argv, USAGE)


def _predict(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks.commands import predict

    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, "labels", "top", "picture"),
        sections=("model",),
        words=True,
    )
    predict.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

"""Quantises a trained model: `python -m vit_jax_tricks.quantize --workdir=DIR`.

Calibrates on training images and measures float and quantised side by side. --out gets
a workdir that `evaluate`, `predict` and `export --int8` take, with its ranges.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            with --weights: digits, digit_scenes/64, folder:PATH, ...
  --data.KEY=VALUE       one key of a config's data section
  --out=DIR              where to; by default the workdir's name and _quantized
  --quant.KEY=VALUE      one key of a config's quant section; int8_narrow weights and
                         int8 activations by default. 4-bit weights:
                         --quant.weights=int4_narrow --quant.weight_observer=mse
  --calibration=512      training images that the ranges come from
  --sensitivity          also what each quantised place costs alone: table and plot
  --images=256           training images for that
  --batch_size=256       examples at once in the evaluation
  --help                 this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_quantize, argv, USAGE)


def _quantize(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import console, post_training

    own = ("data", "out", "calibration", "images", "batch_size")
    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, *own),
        switches=("sensitivity",),
        sections=("model", "data", "quant"),
    )
    with console.muted():
        post_training.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

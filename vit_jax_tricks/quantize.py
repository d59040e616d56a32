"""Quantises a trained model: `python -m vit_jax_tricks.quantize --workdir=DIR`.

Calibrates on training images, and measures the float and the quantised model side by
side. --out gets a workdir with the ranges, for `evaluate`, `predict` and `export
--int8`.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            with --weights: digits, digit_scenes/64, folder:PATH, ...
  --data.KEY=VALUE       set one key of the config's data section
  --out=DIR              the new workdir; by default the old name with _quantized
  --quant.KEY=VALUE      set one key of the config's quant section; by default
                         int8_narrow weights and int8 activations. 4-bit weights:
                         --quant.weights=int4_narrow --quant.weight_observer=mse
  --calibration=512      number of training images to calibrate the ranges on
  --sensitivity          also measure the cost of each place alone: table and plot
  --images=256           number of training images for --sensitivity
  --batch_size=256       examples per batch in the evaluation
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_quantize, argv, USAGE)


def _quantize(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import console
    from vit_jax_tricks.commands import quantize

    own = ("data", "out", "calibration", "images", "batch_size")
    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, *own),
        switches=("sensitivity",),
        sections=("model", "data", "quant"),
    )
    with console.muted():
        quantize.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

"""Quantises a trained model: `python -m vit_jax_tricks.quantize --workdir=DIR`.

Calibrates on training images, and measures the float and the quantised model side by
side. --out gets a workdir with the ranges, for `evaluate`, `predict` and `export
--int8`.

Examples:
  python -m vit_jax_tricks.quantize --workdir=runs/digits --sensitivity
  python -m vit_jax_tricks.quantize --workdir=runs/digits --out=runs/int4 \\
      --quant.weights=int4_narrow --quant.weight_observer=mse
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax_tricks.commands import command, groups, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The quantisation."""

    model: groups.Model = options.group(groups.Model)
    data: groups.Data = options.group(groups.Data)
    out: Path | None = options.path("the new workdir", "DIR", shown="WORKDIR_quantized")
    quant: Mapping[str, Any] = options.section(
        "set one key of the config's quant section; by default int8_narrow weights and "
        "int8 activations",
        "quant",
        groups.typed,
    )
    calibration: int | None = options.whole(
        "number of training images to calibrate the ranges on", None, shown=512
    )
    sensitivity: bool = options.switch(
        "also measure the cost of each place alone: table and plot"
    )
    images: int = options.whole(
        "number of training images for --sensitivity", 256, needs="sensitivity"
    )
    batch_size: int = options.whole("examples per batch in the evaluation", 256)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _quantize, argv, __doc__)


def _quantize(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import quantize

    quantize.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

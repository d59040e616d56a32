"""Exports a trained model to a file: `python -m vit_jax_tricks.export --workdir=DIR`.

Writes ONNX (float or INT8) or StableHLO, for any batch size, with the preprocessing and
the class names inside. The file is then loaded and compared with the model it was made
from: differences, size, and latency at batch 1, 8 and 32.

Examples:
  python -m vit_jax_tricks.export --workdir=runs/digits --out=model.onnx --int8
  python -m vit_jax_tricks.export --workdir=runs/digits --out=model.stablehlo \\
      --format=stablehlo
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
    """The file."""

    model: groups.Model = options.group(groups.Model)
    data: groups.Data = options.group(groups.Data)
    kind: str = options.choice(
        "the format", ("onnx", "stablehlo"), "onnx", flag="format"
    )
    out: Path | None = options.path("the file to write, NAME.FORMAT", "FILE")
    int8: bool = options.switch("INT8 ONNX: 8-bit weights and inputs of linear layers")
    calibration: int | None = options.whole(
        "number of training images to calibrate INT8 ranges on",
        None,
        shown=512,
        needs="int8",
    )
    check: int = options.whole(
        "number of images to compare on; random if there is no data", 256
    )
    as_json: bool = options.switch(
        "print one JSON line; everything else goes to standard error", flag="json"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _export, argv, __doc__)


def _export(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import export

    export.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

"""Writes a trained model as a file: `python -m vit_jax_tricks.export --workdir=DIR`.

ONNX (float or INT8) or StableHLO, for any number of images, with the preprocessing and
the names of the classes inside. The file is then loaded again and measured beside the
model it was made from: differences, size, latency at batch 1, 8 and 32.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --format=onnx          or stablehlo
  --out=FILE             the file to write: NAME.onnx or NAME.stablehlo
  --int8                 INT8 ONNX: weights and inputs of linear layers in 8 bits
  --data=SPEC            images to calibrate and compare with; a run has its own
  --data.KEY=VALUE       one key of a config's data section
  --calibration=512      training images that the ranges of INT8 come from
  --check=256            images to compare on; random ones where there is no data
  --json                 one JSON line on standard output, the rest on standard error
  --help                 this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_export, argv, USAGE)


def _export(argv: list[str], stop: "Stop") -> None:
    import json

    from vit_jax_tricks import console

    given = command.parse(
        argv,
        values=(
            *command.MODEL_VALUES,
            "format",
            "out",
            "data",
            "calibration",
            "check",
        ),
        switches=("int8", "json"),
        sections=("model", "data"),
    )
    as_json = given.get("json") is not None
    with console.elsewhere(as_json):
        from vit_jax_tricks.export import exporting

        result = exporting.run(given, stop)
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())

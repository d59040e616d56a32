"""Exports a trained model to a file: `python -m vit_jax_tricks.export --workdir=DIR`.

Writes ONNX (float or INT8) or StableHLO, for any batch size, with the preprocessing and
the class names inside. The file is then loaded and compared with the model it was made
from: differences, size, and latency at batch 1, 8 and 32.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --format=onnx          the format: onnx or stablehlo
  --out=FILE             the file to write: NAME.onnx or NAME.stablehlo
  --int8                 INT8 ONNX: 8-bit weights and inputs of linear layers
  --data=SPEC            images for calibration and comparison; a run has its own
  --data.KEY=VALUE       set one key of the config's data section
  --calibration=512      number of training images to calibrate INT8 ranges on
  --check=256            number of images to compare on; random if there is no data
  --json                 print one JSON line; everything else goes to standard error
  --help                 show this text
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
        from vit_jax_tricks.commands import export

        result = export.run(given, stop)
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())

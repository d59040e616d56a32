"""Body of the command `export`: writes a file, loads it and measures it."""

from typing import Any

from vit_jax_tricks.commands import data, model
from vit_jax_tricks.commands import export_verdict as verdict
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import Bar
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.exporting import FORMATS, export, target
from vit_jax_tricks.stop import Stop


def run(given: Arguments, stop: Stop) -> dict[str, Any]:
    """Writes the file that a command line names and returns the measurements.

    Raises:
      UserError: flags that contradict one another, and as `export.export`.
    """
    kind, out = given.choice("format", FORMATS, "onnx"), given.get("out")
    int8, calibration = given.get("int8") is not None, given.whole("calibration", None)
    check = given.whole("check", 256) or 256
    if out is None or not out.endswith(f".{kind}"):
        raise UserError(f"--out={out}: give a file name that ends in .{kind}.")
    with model.flags():
        target(out, int8=int8, calibration=calibration)  # before a model is read
    trained = model.load(given, resize="area")
    source = None
    if given.get("data") is not None:
        source = data.open_data(trained, given)
    with model.flags(), Bar("part", check=stop.check) as show:
        made = export(
            trained,
            out,
            source,
            int8=int8,
            calibration=calibration,
            check=check,
            progress=show,
        )
    verdict.show(made)
    return made.to_json()

"""Body of the command `export`: writes a file, loads it and measures it."""

import json
from pathlib import Path

from vit_jax_tricks.commands import export_verdict as verdict
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.data import open_data
from vit_jax_tricks.commands.model import flags, load
from vit_jax_tricks.console import Bar, elsewhere
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export.exporting import export, target
from vit_jax_tricks.stop import Stop


def run(
    *,
    model: groups.Model,
    data: groups.Data,
    kind: str,
    out: Path | None,
    int8: bool,
    calibration: int | None,
    check: int,
    as_json: bool,
    stop: Stop,
) -> None:
    """Writes the file and reports how it compares with the model.

    Raises:
      UserError: options that contradict one another, and as `export.export`.
    """
    if out is None or not out.name.endswith(f".{kind}"):
        raise UserError(f"--out={out}: give a file name that ends in .{kind}.")
    own = model.workdir is not None
    if data.keys and data.name is None and not own:
        raise UserError(
            f"--data.{min(data.keys)} is for --data; add it or leave both out."
        )
    with elsewhere(as_json):
        with flags():
            target(out, int8=int8, calibration=calibration)  # before a model is read
        trained = load(model, resize="area")
        source = open_data(trained, data) if own or data.name else None
        with flags(), Bar("part", check=stop.check) as show:
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
    if as_json:
        print(json.dumps(made.to_json()))

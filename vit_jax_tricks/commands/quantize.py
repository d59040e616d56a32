"""Body of the command `quantize`: calibrates and measures the cost."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from vit_jax_tricks import runs
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.data import open_data
from vit_jax_tricks.commands.model import flags, load, new_folder
from vit_jax_tricks.console import Bar, banner, muted, say
from vit_jax_tricks.errors import spelled
from vit_jax_tricks.runs.quantization import cells, checked_section, ranked
from vit_jax_tricks.stop import Stop


SHOWN = 10  # places shown on the screen; the report has all


def run(
    *,
    model: groups.Model,
    data: groups.Data,
    out: Path | None,
    quant: Mapping[str, Any],
    calibration: int | None,
    sensitivity: bool,
    images: int,
    batch_size: int,
    stop: Stop,
) -> None:
    """Quantises the model, writes the new workdir and says what it costs.

    Args:
      quant: keys of the config's quant section.
      calibration: training images for the ranges, instead of quant's.
      sensitivity: whether to measure each place alone, on `images`.

    Raises:
      UserError: as `runs.quantize`.
    """
    if calibration is not None:
        quant = {**quant, "calibration": calibration}
    with spelled(weights="--quant.weights"):
        checked_section(quant)  # before a model is read
    out = new_folder(out, model.workdir, "quantized")
    with muted():
        trained = load(model, resize="area")
        source = open_data(trained, data)
        with flags(), Bar("batch", check=stop.check) as show:
            made = runs.quantize(
                trained,
                source,
                out=out,
                sensitivity=images if sensitivity else 0,
                batch_size=batch_size,
                progress=show,
                **quant,
            )
    say(f"calibrated on {made.data}: {made.sample}")
    banner("quantised", made.rows())
    if made.costs:
        say("most sensitive, quantised alone:")
        for cost in ranked(made.costs)[:SHOWN]:
            say("  ".join(cells(cost)))
    say(f"report: {out / 'report' / 'summary.md'}")
    workdir = quote(str(out))
    say(
        f"export: python -m vit_jax_tricks.export --workdir={workdir} --int8 --out=FILE"
    )

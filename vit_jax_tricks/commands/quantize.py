"""Body of the command `quantize`: calibrates and measures the cost."""

from pathlib import Path
from shlex import quote

from vit_jax_tricks import config, runs
from vit_jax_tricks.commands import data, model
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import Bar, banner, say
from vit_jax_tricks.errors import UserError, spelled
from vit_jax_tricks.runs.quantization import cells, checked_section, ranked
from vit_jax_tricks.stop import Stop


IMAGES = 256  # images for the sensitivity
SHOWN = 10  # places shown on the screen; the report has all


def run(given: Arguments, stop: Stop) -> Path:
    """Quantises the model that a command line names and returns the new workdir.

    Raises:
      UserError: flags that contradict one another, and as `runs.quantize`.
    """
    if given.get("images") and not given.get("sensitivity"):
        raise UserError("--images is for --sensitivity; add it or leave both out.")
    quant = config.typed("quant", given.sections["quant"])
    if count := given.whole("calibration", None):
        quant["calibration"] = count
    with spelled(weights="--quant.weights"):
        checked_section(quant)  # before a model is read
    images = given.whole("images", IMAGES) or IMAGES
    batch_size = given.whole("batch_size", 256) or 256
    out = model.new_folder(given, "quantized")
    trained = model.load(given, resize="area")
    source = data.open_data(trained, given)
    with model.flags(), Bar("part", check=stop.check) as show:
        made = runs.quantize(
            trained,
            source,
            out=out,
            sensitivity=images if given.get("sensitivity") else 0,
            batch_size=batch_size,
            progress=show,
            **quant,
        )
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
    return out

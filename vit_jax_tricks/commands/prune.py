"""Body of the command `prune`: writes a smaller model to a new workdir."""

from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table

from vit_jax_tricks import config, runs
from vit_jax_tricks.commands import data, model
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.compress.pruning.groups import KINDS
from vit_jax_tricks.compress.pruning.scoring import CRITERIA
from vit_jax_tricks.console import Bar, console, say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.prune_table import HEADER, rows
from vit_jax_tricks.runs.pruning import FINETUNE
from vit_jax_tricks.stop import Stop


def run(given: Arguments, stop: Stop) -> Path:
    """Prunes the model that a command line names and returns the new workdir.

    Raises:
      UserError: flags that contradict one another, and as `runs.prune`.
    """
    options = _options(given)
    out = model.new_folder(given, "pruned")
    trained = model.load(given, resize="area")
    source = data.open_data(trained, given)
    with model.flags(), Bar("batch", options["batch_size"], check=stop.check) as bar:
        made = runs.prune(trained, source, out=out, progress=bar, **options)
    say(f"scores on {made.scored_on}")
    table = Table(*HEADER)
    for row in rows(made.result):
        table.add_row(*row.cells())
    console.print(table)
    say(f"report: {out / 'report' / 'pruning.md'}")
    new, written, tuned = (
        quote(str(out / name)) for name in ("", FINETUNE, "finetune")
    )
    say(f"measure: python -m vit_jax_tricks.evaluate --workdir={new}")
    say(
        f"fine-tune: python -m vit_jax_tricks.main --config={written} --workdir={tuned}"
    )
    return out


def _options(given: Arguments) -> dict[str, Any]:
    switches = {"heads": given.get("heads"), "hidden": given.get("mlp")}
    chosen = [kind for kind in KINDS if switches[kind]]
    return dict(
        flops=_share(given, "flops", "0.6"),
        width=_share(given, "width", "1"),
        criterion=given.choice("criterion", CRITERIA, "gradient"),
        normalize=given.choice("normalize", ("layer", "none"), "layer"),
        kinds=chosen or list(KINDS),
        min_heads=given.whole("min_heads", 1, least=0),
        min_hidden=given.whole("min_hidden", 8),
        multiple=given.whole("multiple", 8),
        images=given.whole("images", 2048),
        batch_size=given.whole("batch_size", 64),
    )


def _share(given: Arguments, flag: str, default: str) -> float:
    text = given.get(flag, default)
    value = config.parse_value(text)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"--{flag}={text}: expected a share such as 0.6.")
    return float(value)

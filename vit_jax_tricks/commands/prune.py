"""Body of the command `prune`: writes a smaller model to a new workdir."""

from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table

from vit_jax_tricks import runs
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.data import open_data
from vit_jax_tricks.commands.model import flags, load, new_folder
from vit_jax_tricks.compress.pruning.groups import KINDS
from vit_jax_tricks.console import Bar, console, muted, say
from vit_jax_tricks.runs.prune_table import HEADER, rows
from vit_jax_tricks.runs.pruning import FINETUNE
from vit_jax_tricks.stop import Stop


def run(
    *,
    model: groups.Model,
    data: groups.Data,
    out: Path | None,
    heads: bool,
    mlp: bool,
    batch_size: int,
    stop: Stop,
    **options: Any,
) -> None:
    """Prunes the model, writes the new workdir and says how to go on.

    Args:
      heads, mlp: remove units of this kind alone; of both kinds if neither is set.
      batch_size: images per batch.
      options: further arguments of `runs.prune`.

    Raises:
      UserError: as `runs.prune`.
    """
    out = new_folder(out, model.workdir, "pruned")
    chosen = {"heads": heads, "hidden": mlp}
    kinds = [kind for kind in KINDS if chosen[kind]] or list(KINDS)
    with muted():
        trained = load(model, resize="area")
        source = open_data(trained, data)
        with flags(), Bar("batch", batch_size, check=stop.check) as show:
            made = runs.prune(
                trained,
                source,
                out=out,
                kinds=kinds,
                batch_size=batch_size,
                progress=show,
                **options,
            )
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

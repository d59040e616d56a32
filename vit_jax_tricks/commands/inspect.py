"""Bodies of the command `inspect`."""

from pathlib import Path

from vit_jax_tricks import config as configs
from vit_jax_tricks.commands.options import Pairs
from vit_jax_tricks.console import muted, say
from vit_jax_tricks.data.progress import progress
from vit_jax_tricks.inspect import model_table
from vit_jax_tricks.inspect.augment_sheet import write_sheet
from vit_jax_tricks.models import list_models


SECONDS = Path(__file__).parents[2] / "docs" / "compile_time.json"  # of a clone


def models(*, output: Path | None) -> None:
    """Writes the table of all models to a file, or prints it."""
    names = list_models()
    rows = model_table.rows(names, model_table.compile_seconds(SECONDS))
    if output is None:
        print(model_table.HEADER + "\n".join(rows))
        return
    rows = list(progress(rows, len(names), "models"))
    output.write_text(model_table.HEADER + "\n".join(rows) + "\n")


def augment(*, output: Path, config: str, keys: Pairs, images: int, step: int) -> None:
    """Draws the effect of a config's augmentation.

    Raises:
      UserError: as `config.load` and `write_sheet`.
    """
    loaded = configs.load(config, keys)
    with muted():
        path, sample = write_sheet(loaded, output, images=images, step=step)
    say(f"on the picture: {sample}")
    say(f"images: {path}")

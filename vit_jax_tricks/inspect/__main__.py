"""Shows models and data: `python -m vit_jax_tricks.inspect WHAT ...`.

models    the table of all models, as Markdown
augment   the effect of a config's augmentation on training images, as a PNG
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


USAGE = f"""{(__doc__ or "").strip()}

  --output=FILE          file to write; by default the screen (models) or augment.png
  --config=FILE[:args]   augment: a config file, by default configs/digits.py
  --config.KEY=VALUE     augment: set one value, such as --config.augment.erasing=0.5
  --images=8             augment: number of images
  --step=0               augment: the step of the run whose draws are shown
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_inspect, argv, USAGE)


def _inspect(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks.errors import UserError, nearest

    what = argv[0] if argv else "(nothing)"
    if what not in COMMANDS:
        hint = nearest(what, COMMANDS)
        raise UserError(f"inspect {what}: unknown.{hint}")
    COMMANDS[what](argv[1:], stop)


def _models(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks.data.progress import progress
    from vit_jax_tricks.inspect import model_table
    from vit_jax_tricks.models import list_models

    output = command.parse(argv, values=("output",)).get("output")
    names = list_models()
    seconds = model_table.compile_seconds(SECONDS)
    rows = model_table.rows(names, seconds)
    if output is None:
        print(model_table.HEADER + "\n".join(rows))
        return
    rows = list(progress(rows, len(names), "models"))
    Path(output).write_text(model_table.HEADER + "\n".join(rows) + "\n")


def _augment(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import config, console
    from vit_jax_tricks.errors import UserError
    from vit_jax_tricks.inspect.augment_sheet import write_sheet

    values = ("config", "output", "images", "step")
    given = command.parse(argv, values=values, sections=("config",))
    output = given.get("output", "augment.png")
    if not output.endswith(".png"):
        raise UserError(f"--output={output}: expected a name that ends in .png.")
    spec = given.get("config", "configs/digits.py")
    loaded = config.load(spec, given.sections["config"])
    with console.muted():
        path, sample = write_sheet(
            loaded,
            Path(output),
            images=given.whole("images", 8) or 8,
            step=given.whole("step", 0, least=0) or 0,
        )
    console.say(f"on the picture: {sample}")
    console.say(f"images: {path}")


SECONDS = Path(__file__).parents[2] / "docs" / "compile_time.json"  # of a clone
COMMANDS = {"augment": _augment, "models": _models}


if __name__ == "__main__":
    sys.exit(main())

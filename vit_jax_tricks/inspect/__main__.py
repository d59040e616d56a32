"""Looks at what is there: `python -m vit_jax_tricks.inspect WHAT ...`.

models   the table of all models, as Markdown
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


USAGE = f"""{(__doc__ or "").strip()}

  --output=FILE          write it there instead of to the screen
  --help                 this text
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
    seconds = model_table.compile_seconds(Path("docs/compile_time.json"))
    rows = model_table.rows(names, seconds)
    if output is None:
        print(model_table.HEADER + "\n".join(rows))
        return
    rows = list(progress(rows, len(names), "models"))
    Path(output).write_text(model_table.HEADER + "\n".join(rows) + "\n")


COMMANDS = {"models": _models}


if __name__ == "__main__":
    sys.exit(main())

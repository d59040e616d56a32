"""Measures a model: `python -m vit_jax_tricks.evaluate --workdir=DIR`.

Reports accuracy, top-5 accuracy and loss, counting every example exactly once on any
batch size or mesh. A run is measured on its own data as in training; other weights on
--data, with the model's own crop and normalisation.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            digits, digit_scenes/64, folder:PATH or tfds:NAME
  --data.KEY=VALUE       set one key of the config's data section
  --split=test           test, train, or all: both together
  --batch_size=256       examples per batch
  --json                 print one JSON line; everything else goes to standard error
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_evaluate, argv, USAGE)


def _evaluate(argv: list[str], stop: "Stop") -> None:
    import json

    from vit_jax_tricks import console
    from vit_jax_tricks.commands import evaluate

    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, "data", "split", "batch_size"),
        switches=("json",),
        sections=("model", "data"),
    )
    as_json = given.get("json") is not None
    with console.elsewhere(as_json):
        result = evaluate.run(given, stop)
        for name, value in result.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            console.say(f"{name:18} {shown}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())

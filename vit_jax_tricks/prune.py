"""Prunes a trained model: `python -m vit_jax_tricks.prune --workdir=DIR`.

Removes the least important heads and hidden units, down to a fraction of the
multiply-accumulates. --out gets a workdir for `evaluate` and `predict`, and
finetune.py, a config for `main` that fine-tunes the smaller model.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            with --weights: digits, digit_scenes/64, folder:PATH, ...
  --data.KEY=VALUE       set one key of the config's data section
  --out=DIR              the new workdir; by default the old name with _pruned
  --flops=0.6            fraction of the multiply-accumulates to keep
  --criterion=gradient   or taylor, output_norm, confidence, entropy, class_attention
  --normalize=layer      compare within layers, or none: across all (gradient, taylor)
  --heads, --mlp         remove only heads, or only hidden units; by default both
  --width=1              fraction of the residual width to keep (ViT, LV-ViT)
  --min_heads=1          heads that each block keeps; 0 may remove its attention
  --min_hidden=8         hidden units that each block keeps
  --multiple=8           keep hidden units in multiples of this
  --images=2048          number of training images for the scores
  --batch_size=64        images per batch
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_prune, argv, USAGE)


def _prune(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import console
    from vit_jax_tricks.commands import prune

    own = ("data", "out", "flops", "criterion", "normalize", "width", "min_heads")
    given = command.parse(
        argv,
        values=(
            *command.MODEL_VALUES,
            *own,
            "min_hidden",
            "multiple",
            "images",
            "batch_size",
        ),
        switches=("heads", "mlp"),
        sections=("model", "data"),
    )
    with console.muted():
        prune.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

"""Makes a trained model smaller: `python -m vit_jax_tricks.prune --workdir=DIR`.

Removes the least important heads and hidden units for good, down to a share of the
multiply-accumulates. --out gets a workdir that `evaluate` and `predict` take, and
finetune.py, a config for `main` that trains the smaller model on.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            with --weights: digits, digit_scenes/64, folder:PATH, ...
  --data.KEY=VALUE       one key of a config's data section
  --out=DIR              where to; by default the workdir's name and _pruned
  --flops=0.6            the share of the multiply-accumulates that stays
  --criterion=gradient   or taylor, output_norm, confidence, entropy, class_attention
  --normalize=layer      compare within layers, or none: over all (gradient, taylor)
  --heads, --mlp         remove heads alone, or hidden units alone; else both
  --width=1              the share of the residual width that stays (ViT, LV-ViT)
  --min_heads=1          what each block keeps; 0 may remove its whole attention
  --min_hidden=8         hidden units that each block keeps
  --multiple=8           of hidden units
  --images=2048          training images for the scores
  --batch_size=64        images at once
  --help                 this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_prune, argv, USAGE)


def _prune(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import console, pruning

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
        pruning.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

"""Prunes a trained model: `python -m vit_jax_tricks.prune --workdir=DIR`.

Removes the least important heads and hidden units, down to a fraction of the
multiply-accumulates. --out gets a workdir for `evaluate` and `predict`, and
finetune.py, a config for `main` that fine-tunes the smaller model.

Examples:
  python -m vit_jax_tricks.prune --workdir=runs/digits --flops=0.6
  python -m vit_jax_tricks.prune --workdir=runs/digits --mlp --criterion=taylor
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command, groups, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

CRITERIA = (
    *("gradient", "taylor", "output_norm", "confidence", "entropy"),
    *("class_attention", "mean_attention"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The pruning."""

    model: groups.Model = options.group(groups.Model)
    data: groups.Data = options.group(groups.Data)
    out: Path | None = options.path("the new workdir", "DIR", shown="WORKDIR_pruned")
    flops: float = options.share("fraction of the multiply-accumulates to keep", 0.6)
    criterion: str = options.choice("the score of a unit", CRITERIA, "gradient")
    normalize: str = options.choice(
        "compare scores within layers, or across all (gradient and taylor only)",
        ("layer", "none"),
        "layer",
    )
    heads: bool = options.switch("remove only heads; by default hidden units too")
    mlp: bool = options.switch("remove only hidden units; by default heads too")
    width: float = options.share(
        "fraction of the residual width to keep (ViT, LV-ViT)", 1.0
    )
    min_heads: int = options.whole(
        "heads that each block keeps; 0 may remove its attention", 1, least=0
    )
    min_hidden: int = options.whole("hidden units that each block keeps", 8)
    multiple: int = options.whole("keep hidden units in multiples of this", 8)
    images: int = options.whole("number of training images for the scores", 2048)
    batch_size: int = options.whole("images per batch", 64)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _prune, argv, __doc__)


def _prune(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import prune

    prune.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

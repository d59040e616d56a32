"""Measures a model: `python -m vit_jax_tricks.evaluate --workdir=DIR`.

Reports accuracy, top-5 accuracy and loss, counting every example exactly once on any
batch size or mesh. A run is measured on its own data as in training; other weights on
--data, with the model's own crop and normalisation.

Examples:
  python -m vit_jax_tricks.evaluate --workdir=runs/digits --split=all
  python -m vit_jax_tricks.evaluate --model=deit_small_patch16_224 \\
      --weights=hub:timm/deit_small_patch16_224.fb_in1k --data=folder:photos
"""

import dataclasses
import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command, groups, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The evaluation."""

    model: groups.Model = options.group(groups.Model)
    data: groups.Data = options.group(groups.Data)
    split: str = options.choice(
        "the split, or both together", ("test", "train", "all"), "test"
    )
    batch_size: int = options.whole("examples per batch", 256)
    as_json: bool = options.switch(
        "print one JSON line; everything else goes to standard error", flag="json"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _evaluate, argv, __doc__)


def _evaluate(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import evaluate

    evaluate.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

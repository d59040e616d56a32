"""Stores a teacher's labels: `python -m vit_jax_tricks.relabel --teacher=X --out=DIR`.

Writes a label pack: the best classes with their scores for every training image and for
every patch of it, as used by token labelling and by distillation with a stored teacher.
The teacher sees each picture whole, resized to a square, so that positions in the pack
are positions in the picture. Run the same command again to resume a killed one.

Examples:
  python -m vit_jax_tricks.relabel --teacher=runs/teacher --out=runs/labels
  python -m vit_jax_tricks.relabel --teacher.model=deit_small_patch16_224 \\
      --teacher.weights=deit_s.safetensors --data=folder:photos --out=runs/labels
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command, groups, options


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The labels."""

    teacher: groups.Model = options.group(
        groups.Model, "teacher", root="workdir", heading="The teacher"
    )
    data: groups.Data = options.group(groups.Data)
    maps: Path | None = options.path(
        "official label maps, CLASS/NAME.pt, instead of a teacher",
        "DIR",
        flag="from",
        brings=("its own labels", ("teacher*", "grid", "batch_size", "raw")),
    )
    out: Path | None = options.path("the label pack, a new folder", "DIR")
    top: int = options.whole(
        "classes to keep for each place; all are kept if there are few", 5
    )
    raw: bool = options.switch(
        "keep the logits unshifted, with 0 for dropped classes; by default they are "
        "shifted so that the log of the dropped classes' mean exponential is 0"
    )
    grid: tuple[int, int] | None = options.grid(
        "rows and columns, such as 14x14; by default the teacher's own"
    )
    batch_size: int = options.whole("examples per batch", 64)
    examples_per_file: int = options.whole(
        "the most work that a killed command has to repeat", 8192
    )
    picture: Path | None = options.path(
        "also draw some images, overlaid with their patches' classes",
        "OUT.png",
        ending=".png",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _relabel, argv, __doc__)


def _relabel(options: Options, stop: "Stop") -> None:
    from vit_jax_tricks.commands import relabel

    relabel.run(**vars(options), stop=stop)


if __name__ == "__main__":
    sys.exit(main())

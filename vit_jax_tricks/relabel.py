"""Stores a teacher's labels: `python -m vit_jax_tricks.relabel --teacher=X --out=DIR`.

Writes a label pack: the best classes with their scores for every training image and for
every patch of it, as used by token labelling and by distillation with a stored teacher.
The teacher sees each picture whole, resized to a square, so that positions in the pack
are positions in the picture. Run the same command again to resume a killed one.
"""

import sys
from typing import TYPE_CHECKING

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

  --teacher=DIR          a run: its model, newest checkpoint, classes and data;
  --teacher.model=NAME   or else a name of list_models(), together with
  --teacher.weights=SOURCE  a .safetensors, .npz or .pth file, hub:owner/name
  --teacher.KEY=VALUE    num_classes, ema or resize, as in other commands, or a
                         field of the model, such as model.img_size=384
  --from=DIR             official label maps, CLASS/NAME.pt, instead of a teacher
  --data=SPEC            digits, digit_scenes/64, folder:PATH or tfds:NAME
  --data.KEY=VALUE       select the examples: train_split, data_dir, split_seed, ...
  --out=DIR              the label pack, a new folder
  --top=5                classes to keep for each place; keep all if there are few
  --raw                  keep the logits unshifted, with 0 for dropped classes; by
                         default they are shifted so that the log of the dropped
                         classes' mean exponential is 0
  --grid=14x14           rows and columns; by default the teacher's own
  --batch_size=64        examples per batch
  --examples_per_file=8192  the most work that a killed command has to repeat
  --picture=OUT.png      also draw some images, overlaid with their patches' classes
  --help                 show this text
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_relabel, argv, USAGE)


def _relabel(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks.commands import relabel

    given = command.parse(
        argv,
        values=(
            *("teacher", "from", "data", "out", "top", "grid", "batch_size"),
            *("examples_per_file", "picture"),
        ),
        switches=("raw",),
        sections=("teacher", "data"),
    )
    relabel.run(given, stop)


if __name__ == "__main__":
    sys.exit(main())

"""Stores a teacher's labels: `python -m vit_jax_tricks.relabel --teacher=X --out=DIR`.

Writes a label pack: the best classes with their scores for every training image and for
every patch of it, as used by token labelling and by distillation with a stored teacher.
The teacher sees each picture whole, resized to a square, so that positions in the pack
are positions in the picture. Run the same command again to resume a killed one.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax_tricks.commands import command


if TYPE_CHECKING:
    import numpy as np

    from vit_jax_tricks.commands.command import Arguments
    from vit_jax_tricks.data.label_pack import LabelPack
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
SHOWN = 24  # images in the picture


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_relabel, argv, USAGE)


def _relabel(argv: list[str], stop: "Stop") -> None:
    from vit_jax_tricks import paths
    from vit_jax_tricks.console import say, si
    from vit_jax_tricks.data.label_pack import LabelPack
    from vit_jax_tricks.errors import UserError

    given = command.parse(
        argv,
        values=(
            *("teacher", "from", "data", "out", "top", "grid", "batch_size"),
            *("examples_per_file", "picture"),
        ),
        switches=("raw",),
        sections=("teacher", "data"),
    )
    if given.get("out") is None:
        raise UserError("give --out=DIR, a new folder for the label pack.")
    picture = given.get("picture")
    if picture is not None and not picture.endswith(".png"):
        raise UserError(f"--picture={picture}: expected a name that ends in .png.")
    if picture is not None and Path(picture).parent.is_file():
        raise UserError(f"--picture={picture}: {Path(picture).parent} is not a folder.")
    out = paths.utf8(Path(given.get("out")), "--out=")
    labeller = _labeller(given)
    if not _write(out, labeller, stop):
        say(f"{out} is complete already")
    pack = LabelPack.open(out)
    size = sum(entry.stat().st_size for entry in out.iterdir())
    spec = pack.spec
    grid = "x".join(map(str, spec.grid))
    say(
        f"label pack: {out}, {spec.count} images, {grid} cells, {spec.top} of "
        f"{pack.num_classes} classes, {si(size, 'B')}, {size // spec.count} bytes an "
        "image"
    )
    if picture is not None:
        say(f"picture: {_draw(Path(picture), pack, labeller.source)}")


def _labeller(given: "Arguments") -> Any:
    """The teacher, or the label maps, that produce the records."""
    from vit_jax_tricks.console import say
    from vit_jax_tricks.data.label_pack.maps import open_maps
    from vit_jax_tricks.errors import UserError
    from vit_jax_tricks.teach import labeller

    if (root := given.get("from")) is None:
        labeller = labeller.labeller(given)
        if not labeller.form.exact:
            say(
                "token logits: the teacher has no dense head, so its classifier is "
                "applied at each place, which it was not trained for: an approximation"
            )
        return labeller
    idle = [
        flag for flag in ("teacher", "grid", "batch_size", "raw") if given.get(flag)
    ]
    idle += [f"teacher.{key}" for key, _ in given.sections["teacher"]]
    if idle:
        raise UserError(f"--from has its own labels; leave --{idle[0]} out.")
    source, named = labeller.open_data(given)
    options = labeller.sizes(given, source.num_classes)
    return open_maps(Path(root), source, named, **options)


def _write(out: Path, labeller: Any, stop: "Stop") -> bool:
    """Writes the missing parts, with a bar; returns False if nothing was missing."""
    from vit_jax_tricks.console import Bar, say
    from vit_jax_tricks.data.label_pack.writer import finished, write_pack
    from vit_jax_tricks.stop import Stopped

    spec = labeller.spec
    start = finished(out, spec).examples
    if 0 < start < spec.count:
        say(f"{start} of {spec.count} examples are there already")
    bar, right = Bar("example", 1, check=stop.check), 0

    def check(done: int) -> None:
        bar(done, spec.count)

    def records(part: range) -> "Iterator[np.ndarray]":
        nonlocal right
        for piece in labeller.records(part, check):
            right += int((piece["class_classes"][:, 0] == piece["label"]).sum())
            yield piece

    try:
        with stop.deferred():
            wrote = write_pack(out, spec, records)
        if wrote:
            share = right / max(spec.count - start, 1)
            say(f"the top class is the label for {share:.1%} of the images")
        return wrote
    except Stopped:
        say(f"stopped; run the same command again to continue {out}")
        raise
    finally:
        bar.close()


def _draw(path: Path, pack: "LabelPack", source: Any) -> Path:
    """Draws some images of all classes."""
    import numpy as np

    from vit_jax_tricks.console import say
    from vit_jax_tricks.data.sample import draw, labels_of
    from vit_jax_tricks.data.views import View
    from vit_jax_tricks.inspect.label_sheet import TILE, write_sheet

    labels = labels_of(source.whole_train)
    sample = draw(labels, SHOWN, num_classes=source.num_classes, split="train")
    say(f"in the picture: {sample}")
    index = np.sort(sample.rows)
    records = [source.whole_train[int(i)] for i in index]
    view = View((TILE, TILE), source.channels, "whole", 1.0, "area")
    images = [view.test(data) for data, _ in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sheet(path, pack, index, images, [label for _, label in records])


if __name__ == "__main__":
    sys.exit(main())

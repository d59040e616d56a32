"""Body of the command `relabel`: writes a label pack, and a picture of it."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.model import flags, load
from vit_jax_tricks.console import Bar, say, si
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.maps import open_maps
from vit_jax_tricks.data.label_pack.writer import finished
from vit_jax_tricks.data.sample import draw, labels_of
from vit_jax_tricks.data.views import View
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.inspect.label_sheet import TILE, write_sheet
from vit_jax_tricks.stop import Stop, Stopped
from vit_jax_tricks.teach.labeller import (
    Labeller,
    kept_scores,
    labeller,
    named_data,
    open_data,
)
from vit_jax_tricks.teach.relabelling import Records, Relabelled, write


SHOWN = 24  # images in the picture


def run(
    *,
    teacher: groups.Model,
    data: groups.Data,
    maps: Path | None,
    out: Path | None,
    top: int,
    raw: bool,
    grid: tuple[int, int] | None,
    batch_size: int,
    examples_per_file: int,
    picture: Path | None,
    stop: Stop,
) -> None:
    """Writes the label pack, or its missing parts, and a picture of it.

    Args:
      maps: label maps instead of a teacher.

    Raises:
      UserError: options that contradict one another, and as `teach.relabel`.
    """
    if out is None:
        raise UserError("give --out=DIR, a new folder for the label pack.")
    if picture is not None and picture.parent.is_file():
        raise UserError(f"--picture={picture}: {picture.parent} is not a folder.")
    out = paths.utf8(out, "--out=")
    if maps is None:
        records = _teacher(
            teacher,
            data,
            top=top,
            grid=grid,
            raw=raw,
            batch_size=batch_size,
            examples_per_file=examples_per_file,
        )
    else:
        with flags():
            source = open_data(None, data.name, **data.keys)
            named, kept = named_data(source), kept_scores(source.num_classes, top)
            records = open_maps(
                maps, source, named, top=kept, shard_size=examples_per_file
            )
    with flags():
        made = _written(out, records, stop)
    pack, spec = made.pack, made.pack.spec
    size = sum(entry.stat().st_size for entry in out.iterdir())
    cells = "x".join(map(str, spec.grid))
    say(
        f"label pack: {out}, {spec.count} images, {cells} cells, {spec.top} of "
        f"{pack.num_classes} classes, {si(size, 'B')}, {size // spec.count} bytes an "
        "image"
    )
    if picture is not None:
        say(f"picture: {_draw(picture, pack, records.source)}")


def _teacher(given: groups.Model, data: groups.Data, **options: Any) -> Labeller:
    """The teacher's labels; `options` are those of `labeller`."""
    teacher = load(given, resize="area", prefix="--teacher.")
    with flags(fields="--teacher.model."):
        source = open_data(teacher, data.name, **data.keys)
        made = labeller(teacher, source, **options)
    if not made.form.exact:
        say(
            "token logits: the teacher has no dense head, so its classifier is applied "
            "at each place, which it was not trained for: an approximation"
        )
    return made


def _written(out: Path, records: Records, stop: Stop) -> Relabelled:
    """Writes the missing parts, with a bar."""
    there, count = finished(out, records.spec).examples, records.spec.count
    if 0 < there < count:
        say(f"{there} of {count} examples are there already")
    try:
        with stop.deferred(), Bar("example", 1, check=stop.check) as show:
            made = write(out, records, show)
    except Stopped:
        say(f"stopped; run the same command again to continue {out}")
        raise
    if made.written:
        share = made.correct / made.written
        say(f"the top class is the label for {share:.1%} of the images")
    else:
        say(f"{out} is complete already")
    return made


def _draw(path: Path, pack: LabelPack, source: Any) -> Path:
    """Draws some images of all classes."""
    labels = labels_of(source.whole_train)
    sample = draw(labels, SHOWN, num_classes=source.num_classes, split="train")
    say(f"in the picture: {sample}")
    index = np.sort(sample.rows)
    records = [source.whole_train[int(i)] for i in index]
    view = View((TILE, TILE), source.channels, "whole", 1.0, "area")
    images = [view.test(data) for data, _ in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sheet(path, pack, index, images, [label for _, label in records])

"""Body of the command `relabel`: writes a label pack, and a picture of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.commands import data, model
from vit_jax_tricks.commands.command import MODEL_VALUES, Arguments
from vit_jax_tricks.console import Bar, say, si
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.maps import open_maps
from vit_jax_tricks.data.label_pack.writer import finished
from vit_jax_tricks.data.sample import draw, labels_of
from vit_jax_tricks.data.views import View
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.inspect.label_sheet import TILE, write_sheet
from vit_jax_tricks.stop import Stop, Stopped
from vit_jax_tricks.teach.labeller import kept_scores, labeller, named_data, open_data
from vit_jax_tricks.teach.relabelling import Records, Relabelled, write


SHOWN = 24  # images in the picture


def run(given: Arguments, stop: Stop) -> None:
    """Writes the label pack that a command line names, or its missing parts.

    Raises:
      UserError: flags that contradict one another, and as `teach.relabel`.
    """
    if given.get("out") is None:
        raise UserError("give --out=DIR, a new folder for the label pack.")
    picture = given.get("picture")
    if picture is not None and not picture.endswith(".png"):
        raise UserError(f"--picture={picture}: expected a name that ends in .png.")
    if picture is not None and Path(picture).parent.is_file():
        raise UserError(f"--picture={picture}: {Path(picture).parent} is not a folder.")
    out = paths.utf8(Path(given.get("out")), "--out=")
    records = _records(given)
    with model.flags():
        made = _written(out, records, stop)
    pack, spec = made.pack, made.pack.spec
    size = sum(entry.stat().st_size for entry in out.iterdir())
    grid = "x".join(map(str, spec.grid))
    say(
        f"label pack: {out}, {spec.count} images, {grid} cells, {spec.top} of "
        f"{pack.num_classes} classes, {si(size, 'B')}, {size // spec.count} bytes an "
        "image"
    )
    if picture is not None:
        say(f"picture: {_draw(Path(picture), pack, records.source)}")


def _records(given: Arguments) -> Any:
    """The teacher, or the label maps, that give the records."""
    root, options = given.get("from"), data.options(given)
    top = given.whole("top", 5) or 5
    size = given.whole("examples_per_file", 8192) or 8192
    if root is not None:
        idle = [f for f in ("teacher", "grid", "batch_size", "raw") if given.get(f)]
        idle += [f"teacher.{key}" for key, _ in given.sections["teacher"]]
        if idle:
            raise UserError(f"--from has its own labels; leave --{idle[0]} out.")
        with model.flags():
            source = open_data(None, given.get("data"), **options)
            kept = kept_scores(source.num_classes, top)
            named = named_data(source)
            return open_maps(Path(root), source, named, top=kept, shard_size=size)
    grid = _grid(given.get("grid"))
    batch_size = given.whole("batch_size", 64) or 64
    teacher = model.load(_teacher(given), resize="area", prefix="--teacher.")
    with model.flags(fields="--teacher.model."):
        made = labeller(
            teacher,
            open_data(teacher, given.get("data"), **options),
            top=top,
            grid=grid,
            raw=given.get("raw") is not None,
            batch_size=batch_size,
            examples_per_file=size,
        )
    if not made.form.exact:
        say(
            "token logits: the teacher has no dense head, so its classifier is applied "
            "at each place, which it was not trained for: an approximation"
        )
    return made


def _teacher(given: Arguments) -> Arguments:
    """Converts the teacher's flags to those of the other commands."""
    values: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    known = [flag for flag in MODEL_VALUES if flag != "workdir"]
    if (workdir := given.get("teacher")) is not None:
        values["workdir"] = workdir
    for key, text in given.sections["teacher"]:
        if key.startswith("model."):
            overrides.append((key.removeprefix("model."), text))
        elif key in known:
            values[key] = text
        else:
            hint = nearest(key, [*known, "model.KEY"])
            raise UserError(f"--teacher.{key}: unknown.{hint}")
    return Arguments(values, {"model": overrides}, [])


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"--grid={text}: expected rows and columns, such as 14x14.")
    return int(match[1]), int(match[2] or match[1])


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

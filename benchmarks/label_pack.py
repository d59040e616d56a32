"""Measures the size and the reading cost of a label pack on 10,000 images.

    python benchmarks/label_pack.py --rounds 5

The images are links to a few JPEG files of 500 x 375 pixels. The classes of every cell
are drawn at random from 1000. A real teacher is less random, so real packs are smaller.
Batches of 64 are decoded and cropped to 224 x 224, in turns without a pack, with one
that stays in memory, and with one that is read record by record. Times are CPU times
summed over all threads, so other work on the machine does not count.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_jax_tricks import data
from vit_jax_tricks.data.dataset import Data
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import PackSpec, names_crc
from vit_jax_tricks.data.label_pack.writer import write_pack


CLASSES, IMAGENET, TOP, GRID = 1000, 1_281_167, 5, (14, 14)
TEACHER = {"name": "none", "weights": "", "checksum": None, "form": ""}


def random_pack(source: Data, path: pathlib.Path) -> pathlib.Path:
    """Writes a pack for the training split with random classes and scores."""
    rng, records = np.random.default_rng(0), source.whole_train
    names = tuple(source.class_names)

    def pieces(part: range) -> Iterator[np.ndarray]:
        for start in range(part.start, part.stop, 512):
            rows = range(start, min(start + 512, part.stop))
            cells = (len(rows), *GRID, TOP)
            scores = -np.sort(-rng.uniform(0, 12, cells).astype(np.float32))
            classes = rng.integers(0, len(names), cells)
            yield encode(
                labels=np.array([records[i][1] for i in rows], np.int32),
                class_scores=scores[:, 0, 0],
                class_classes=classes[:, 0, 0],
                token_scores=scores,
                token_classes=classes,
            )

    spec = PackSpec(
        teacher=TEACHER,
        preprocessing={},
        data={"name": source.name},
        class_names=names,
        files=names_crc(records),
        count=len(records),
        grid=GRID,
        top=TOP,
        rest="mean",
        shard_size=8192,
    )
    write_pack(path, spec, pieces)
    return path


def pictures(root: pathlib.Path, count: int) -> str:
    """Makes a folder of `count` links to JPEG files, spread over 1000 classes."""
    import simplejpeg

    rng = np.random.default_rng(0)
    root.mkdir()
    originals = []
    for i in range(50):
        coarse = rng.integers(0, 256, (47, 63, 3), np.uint8)
        smooth = coarse.repeat(8, 0).repeat(8, 1)[:375, :500].astype(np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255)
        originals.append(root / f".{i}.jpg")
        coded = simplejpeg.encode_jpeg(noisy.astype(np.uint8), quality=90)
        originals[-1].write_bytes(coded)
    for side, each in (("train", count // CLASSES), ("test", 1)):
        for k in range(CLASSES):
            place = root / side / f"{k:04d}"
            place.mkdir(parents=True)
            for i in range(each):
                os.link(originals[(k * each + i) % 50], place / f"{i:03d}.jpg")
    return f"folder:{root}"


def seconds_an_image(batches: Any, batch_size: int, count: int) -> float:
    """Returns CPU time per image over `count` batches, after four to fill the queue."""
    for _ in range(4):
        next(batches)
    began = time.process_time()
    for _ in range(count):
        next(batches)
    taken = time.process_time() - began
    batches.close()
    return taken / (batch_size * count)


def cost_of_rows(pack: LabelPack, count: int) -> float:
    """Returns the CPU time per image of reading alone, 64 at a time at random."""
    order = np.random.default_rng(1).permutation(pack.spec.count)[: count * 64]
    began = time.process_time()
    for places in order.reshape(count, 64):
        pack.rows(places)
    return (time.process_time() - began) / order.size


def main() -> None:
    """Makes the pictures and the pack, reads them in turns, prints the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=16, help="of 64, in a turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        source = data.build(pictures(root / "images", 10_000), image_size=224)
        path = random_pack(source, root / "pack")
        size = sum(file.stat().st_size for file in path.iterdir())
        began = time.process_time()
        packs: dict[str, LabelPack | None] = {"no pack": None}
        packs["in memory"] = LabelPack.open(path, in_memory=True)
        opening = time.process_time() - began
        packs["by record"] = LabelPack.open(path, in_memory=False)
        each = size / len(source.whole_train)
        print(
            f"{len(source.whole_train):,} images, {GRID[0]} x {GRID[1]} cells, top "
            f"{TOP} of {CLASSES} classes: {size:,} bytes, {each:.0f} an image, "
            f"{each * IMAGENET / 1e9:.2f} GB for {IMAGENET:,} images\n"
            f"opened, checked and held in {opening:.2f} s"
        )

        def more(pack: LabelPack) -> Callable:
            return lambda batch: pack.rows(
                source.example_ids(batch["index"]), batch["label"]
            )

        taken: dict[str, list[float]] = {name: [] for name in packs}
        for turn in range(options.rounds):
            for name, pack in packs.items():
                batches = source.train_batches(
                    64,
                    seed=turn,
                    boxes=pack is not None,
                    more=None if pack is None else more(pack),
                )
                taken[name].append(seconds_an_image(batches, 64, options.batches))
        print("µs an image" + " " * 9 + "min    median  ratio of min   alone")
        least = min(taken["no pack"])
        for name, times in taken.items():
            pack = packs[name]
            alone = 0.0 if pack is None else cost_of_rows(pack, 100)
            each = min(times) * 1e6, statistics.median(times) * 1e6
            print(
                f"{name:13}{each[0]:10.1f}{each[1]:10.1f}{min(times) / least:14.3f}"
                f"{alone * 1e6:8.1f}"
            )


if __name__ == "__main__":
    main()

"""Times a DeiT-S training step against plain Flax and timm, on one machine.

    python benchmarks/train_step.py --rounds 15 --json train_step.json

All use the same random uint8 batches (16 images of 224 x 224, 1000 classes) in float32.
They take turns, so that load on the machine affects all of them:

    ours           configs/deit_s.py as it is: augmentation, drop path, EMA
    ours, plain    the same without those
    flax           the hand-written step of plain_vit.py, faster of two attentions
    flax, MHDPA    the same with flax.linen.MultiHeadDotProductAttention
    timm           timm's model in eager PyTorch with torch's AdamW, if installed

Needs about 6 GB of memory.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import plain_vit
import timm_eager
from race import Batch, Turn, race, ratio

from vit_jax_tricks import config
from vit_jax_tricks.train import banner, experiment


BATCH, CLASSES = 16, 1000
PLAIN = {
    "data.repeats": "1",
    "augment.flip": "False",
    "augment.auto_augment": "none",
    "augment.erasing": "0",
    "augment.mixup": "0",
    "augment.cutmix": "0",
    "ema.decay": "None",
    "model.drop_path_rate": "0.0",
}


def batches(seed: int = 0) -> Iterator[Batch]:
    """Yields a few random batches on the host, over and over."""
    rng = np.random.default_rng(seed)
    return itertools.cycle(
        {
            "image": rng.integers(0, 256, (BATCH, 224, 224, 3), np.uint8),
            "label": rng.integers(0, CLASSES, BATCH, np.int32),
            "index": rng.integers(0, 2**20, BATCH, np.int32),
        }
        for _ in range(4)
    )


def many_classes(root: pathlib.Path) -> str:
    """Makes a folder data set that only defines 1000 classes."""
    import simplejpeg

    picture = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for k in range(CLASSES):
        place = root / f"{k:04d}"
        place.mkdir()
        for name in ("a.jpg", "b.jpg"):
            (place / name).write_bytes(picture)
    return f"folder:{root}"


def ours(data: str, changes: dict[str, str]) -> tuple[Turn, float, float]:
    """Returns our step; FLOPs per image by XLA, and of three forward passes."""
    spec = f"configs/deit_s.py:data={data},batch_size={BATCH}"
    x = experiment.build(config.load(spec, changes.items()))
    step, state = x.compile_train_step(), x.compile_init()

    def turn(batch: Batch) -> Any:
        nonlocal state
        state, metrics = step(state, x.put(batch), x.place_frozen())
        return jax.block_until_ready((state, metrics))[1]["loss"]

    analysis = step.cost_analysis() or {}
    return turn, analysis["flops"] / BATCH, 3 * banner.forward_flops(x)


def flax(attention: Any) -> Turn:
    """Returns the hand-written step."""
    state, step = plain_vit.make(attention=attention)

    def turn(batch: Batch) -> Any:
        nonlocal state
        state, loss = step(state, jax.device_put(batch["image"]), batch["label"])
        return jax.block_until_ready((state, loss))[1]

    return turn


def main() -> None:
    """Builds the contestants, runs them in turns, prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=pathlib.Path, help="also write the result here")
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        data = many_classes(pathlib.Path(folder))
        full, flops, expected = ours(data, {})
        plain, *_ = ours(data, PLAIN)
    turns = {"ours": full, "ours, plain": plain}
    turns["flax"] = flax(plain_vit.Attention)
    turns["flax, MHDPA"] = flax(plain_vit.FlaxAttention)
    try:
        turns["timm"] = timm_eager.make()
    except ImportError as error:
        print(f"timm is left out: {error} (pip install torch torchvision timm)")
    seconds, compilations = race(turns, options.rounds, batches())
    load.append(os.getloadavg()[0])

    rows = {
        name: {"min": min(s), "median": statistics.median(s), "seconds": s}
        for name, s in seconds.items()
    }
    best = min(("flax", "flax, MHDPA"), key=lambda name: rows[name]["median"])
    pairs = [("ours, plain", best), ("ours", best)]
    pairs += [("timm", name) for name in ("ours", "ours, plain") if "timm" in rows]
    ratios = {f"{a} / {b}": ratio(seconds[a], seconds[b]) for a, b in pairs}
    print(f"\n{'seconds a step':28}{'min':>8}{'median':>8}{'img/s':>8}")
    for name, row in rows.items():
        rate = BATCH / row["median"]
        print(f"{name:28}{row['min']:8.3f}{row['median']:8.3f}{rate:8.1f}")
    print(f"\n{'ratio of times':28}{'min':>8}{'median':>8}{'paired':>8}")
    for name, r in ratios.items():
        print(f"{name:28}{r['min']:8.3f}{r['median']:8.3f}{r['paired']:8.3f}")
    print(
        f"\nGFLOPs an image, compiled step: {flops / 1e9:.2f}, three forward passes: "
        f"{expected / 1e9:.2f}, ratio {flops / expected:.4f}\n"
        f"compilations after step one: {compilations}\n"
        f"load average before and after: {load[0]:.2f} {load[1]:.2f}"
    )
    if options.json:
        result = {
            "contestants": rows,
            "ratios": ratios,
            "flops_per_image": {"compiled": flops, "three_forwards": expected},
            "compilations_after_step_one": compilations,
            "load_average": load,
            "cores": len(os.sched_getaffinity(0)),
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Measures the augmentation against a training step and Pillow, and its memory.

    python benchmarks/augment.py --timm=/path/to/python --json augment.json

Runs 224 x 224 uint8 photographs through whole stacks on the CPU:

    full        crop, flip, colour jitter, RandAugment, erasing, mixup or CutMix
    deit        configs/deit_s.py as it is: flip, RandAugment, erasing, mixup or CutMix
    original    the same with AutoAugment's policy

It compares them with a DeiT-S training step without augmentation at the same batch size
(wall time, in turns), and with timm's transforms on Pillow images (CPU time of one
core, in a second process that runs the Python given by `--timm`).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import race
import train_step
from sklearn.datasets import load_sample_images

from vit_jax_tricks import augment, config
from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.random import fold_in_str


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEIT: dict[str, Any] = dict(
    flip=True,
    auto_augment="rand-m9-mstd0.5-inc1",
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
)
CROP: dict[str, Any] = dict(crop="random_resized", color_jitter=0.4, jitter_prob=0.8)
STACKS = {
    "full": DEIT | CROP,
    "deit": DEIT,
    "original": DEIT | dict(auto_augment="original"),
}
TIMM = {
    "full": dict(
        auto_augment=DEIT["auto_augment"], color_jitter=0.4, color_jitter_prob=0.8
    ),
    "deit": dict(auto_augment=DEIT["auto_augment"], scale=(1.0, 1.0), ratio=(1.0, 1.0)),
    "original": dict(auto_augment="original", scale=(1.0, 1.0), ratio=(1.0, 1.0)),
}
CLASSES = 1000


def photographs(n: int) -> np.ndarray:
    """Returns n crops of scikit-learn's two photographs."""
    rng = np.random.default_rng(0)
    pictures = load_sample_images().images
    out = []
    for i in range(n):
        picture = pictures[i % 2]
        y, x = (rng.integers(0, side - 224) for side in picture.shape[:2])
        out.append(picture[y : y + 224, x : x + 224])
    return np.stack(out)


def stack(name: str) -> Callable[..., Any]:
    """Returns fn(key, images, labels, index) -> the inputs of the model."""
    defaults: Any = config.defaults()["augment"]
    made = augment.from_config(mean=MEAN, **dict(defaults) | STACKS[name])

    def run(key: Any, images: Any, labels: Any, index: Any) -> Any:
        images, _ = made.augment(fold_in_str(key, "augment"), images, index)
        images = normalize(images, MEAN, STD)
        images = made.erase(fold_in_str(key, "erase"), images, index)
        return made.mix(
            fold_in_str(key, "mix"), images, jax.nn.one_hot(labels, CLASSES)
        )

    return run


def shapes(b: int) -> tuple[Any, ...]:
    return (
        jax.random.key(0),
        jax.ShapeDtypeStruct((b, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((b,), jnp.int32),
        jax.ShapeDtypeStruct((b,), jnp.int32),
    )


def timed(turn: Callable[[], Any]) -> tuple[float, float]:
    """Returns wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(turn())
    return time.perf_counter() - wall, time.process_time() - cpu


def pillow(python: str, images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Returns CPU seconds per image and round for each stack, run by timm."""
    erasing = dict(re_prob=0.25, re_mode="pixel", rounds=rounds)
    options = {name: dict(color_jitter=None) | v | erasing for name, v in TIMM.items()}
    script = pathlib.Path(__file__).with_name("timm_transforms.py")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "images.npy"
        np.save(file, images)
        command = [python, str(script), str(file), json.dumps(options)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--timm", help="a Python with torch and timm")
    parser.add_argument("--no-step", action="store_true", help="skip the training step")
    parser.add_argument("--json", type=pathlib.Path, help="also write the result here")
    options = parser.parse_args()
    b = options.batch
    load = [os.getloadavg()[0]]
    images = photographs(b)
    labels, index = jnp.arange(b) % CLASSES, jnp.arange(b)

    turns: dict[str, Callable[[int], Any]] = {}
    macs = {}
    for name in STACKS:
        run = stack(name)
        macs[name] = count_flops(run, *shapes(b)).macs / b
        jitted = jax.jit(run)
        on_device = jnp.asarray(images)
        turns[name] = lambda i, jitted=jitted, x=on_device: jitted(
            jax.random.key(i), x, labels, index
        )
    step_macs = 0.0
    if not options.no_step:
        train_step.BATCH = b
        with tempfile.TemporaryDirectory() as folder:
            data = train_step.many_classes(pathlib.Path(folder))
            compiled, _, flops = train_step.ours(data, train_step.PLAIN)
        step_macs = flops / 2
        batch: dict[str, Any] = {
            "image": images,
            "label": np.asarray(labels, np.int32),
            "index": np.asarray(index, np.int32),
        }
        turns["step"] = lambda i: compiled(batch)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for turn in turns.values():
        jax.block_until_ready(turn(0))
    for i in range(options.rounds):
        for name, turn in turns.items():
            time.sleep(race.PAUSE)
            seconds[name].append(timed(lambda turn=turn, i=i: turn(i)))
    reference = pillow(options.timm, images, options.rounds) if options.timm else {}
    load.append(os.getloadavg()[0])

    memory: dict[str, Any] = {
        name: jax.jit(stack(name)).lower(*shapes(256)).compile().memory_analysis()
        for name in STACKS
    }
    result: dict[str, Any] = {
        "batch": b,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load,
    }
    for name in turns:
        wall, cpu = ([1e3 * s[j] / b for s in seconds[name]] for j in (0, 1))
        row = {"wall_ms": min(wall), "wall_ms_median": statistics.median(wall)}
        row |= {"cpu_ms": min(cpu), "cpu_ms_median": statistics.median(cpu)}
        if name in STACKS:
            row["temporary_MiB_256"] = memory[name].temp_size_in_bytes / 2**20
            row["mmacs"] = macs[name] / 1e6
            if "step" in turns:
                step = [s[0] for s in seconds["step"]]
                row["share_of_step_time"] = statistics.median(
                    s[0] / other for s, other in zip(seconds[name], step, strict=True)
                )
                row["share_of_step_macs"] = macs[name] / step_macs
        if name in reference:
            times = [1e3 * s for s in reference[name]]
            row["pillow_cpu_ms"] = min(times)
            row["pillow_cpu_ms_median"] = statistics.median(times)
        result[name] = row
        print(name, json.dumps(row), flush=True)
    print(f"load average before and after: {load[0]:.2f} {load[1]:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

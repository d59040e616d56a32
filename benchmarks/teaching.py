"""Measures the gain from token labels on digit_scenes, over paired seeds.

    python benchmarks/teaching.py --out runs/teaching --seeds 5 --epochs 5

Trains a Swin teacher, stores its labels with `relabel`, then trains the same LV-ViT
from every seed twice: alone (every token learns the label of its image) and with the
teacher's token labels. Both runs of a seed have the same initial parameters and the
same order of images.

Prints the accuracies and the paired differences. It also measures how well the dense
head locates the digit, by comparing its probability of the true class at each token
with the mask. Writes OUT/teaching.json and OUT/dense.png. Repeat a killed command to
resume.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

import cv2
import jax
import numpy as np
import trainings

from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.data.digit_scenes import DigitScenes
from vit_jax_tricks.data.prepare import data_root, prepare
from vit_jax_tricks.inspect.contact_sheet import contact_sheet
from vit_jax_tricks.inspect.label_sheet import overlaid
from vit_jax_tricks.runs.trained import load
from vit_jax_tricks.teach.token_logits import token_logits


STUDENT = (
    *("--config.model.embed_dim=64", "--config.model.num_heads=2"),
    "--config.model.return_dense=True",
)
ARMS = {
    "alone": (),
    "token labels": (
        "--config.loss.classification.dense_weight=0",
        "--config.loss.token_labels.name=softmax",
        "--config.loss.token_labels.class_weight=0",
    ),
}


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path, default="runs/teaching")
    args.add_argument("--seeds", type=int, default=5)
    args.add_argument("--epochs", type=float, default=5.0)
    args.add_argument("--teacher_epochs", type=float, default=10.0)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    teacher, pack = args.out / "teacher", args.out / "pack"
    train(teacher, family("swin", args.teacher_epochs))
    trainings.call(
        *("relabel", f"--teacher={teacher}", f"--out={pack}"),
        *("--top=10", f"--picture={args.out / 'labels.png'}"),
    )
    jobs, cores = {}, trainings.Cores()

    def student(arm: str, seed: int, core: int) -> float:
        flags = [*STUDENT, *ARMS[arm], f"--config.seed={seed}"]
        if arm != "alone":
            flags.append(f"--config.teacher.pack={pack}")
        folder = args.out / f"{arm.replace(' ', '_')}_{seed}"
        return train(folder, family("lv_vit", args.epochs), *flags, core=core)

    for seed in range(args.seeds):
        for arm in ARMS:
            jobs[arm, seed] = cores.submit(student, arm, seed)
    accuracy = {
        arm: [jobs[arm, seed].result() for seed in range(args.seeds)] for arm in ARMS
    }
    result: dict[str, Any] = {"teacher": trainings.last(teacher), "accuracy": accuracy}
    result["gains"] = trainings.gains(accuracy, "alone")
    images, masks, labels = scenes(2000)
    maps = {
        arm: found(args.out / f"{arm.replace(' ', '_')}_0", images, labels)
        for arm in ("alone", "token labels")
    }
    maps["the teacher"] = found(teacher, images, labels)
    for name, places in maps.items():
        result[f"overlap, {name}"] = overlap(places, masks)
        print(name, result[f"overlap, {name}"], flush=True)
    picture(args.out / "dense.png", images, masks, labels, maps)
    (args.out / "teaching.json").write_text(json.dumps(result, indent=1) + "\n")


def family(name: str, epochs: float) -> str:
    return f"configs/families.py:family={name},epochs={epochs}"


def train(
    workdir: pathlib.Path, config: str, *flags: str, core: int | None = None
) -> float:
    value = trainings.train(workdir, config, *flags, core=core)
    print(f"{workdir.name}: {100 * value:.2f} %", flush=True)
    return value


def scenes(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns test images uint8 [n, 64, 64, 3], masks [n, 64, 64], labels [n]."""
    root = data_root()
    builder = prepare(
        lambda: DigitScenes(config="64", data_dir=root, file_format="array_record")
    )
    source = builder.as_data_source("test")
    records = [source[i] for i in range(count)]
    images = np.stack([r["image"] for r in records])
    masks = np.stack([r["mask"][..., 0] for r in records]).astype(np.float32)
    return images, masks, np.array([r["label"] for r in records])


def found(workdir: pathlib.Path, images: Any, labels: Any) -> np.ndarray:
    """Returns the probability of the image's class in each cell [n, p, q]."""
    trained = load(workdir)
    spec, form = trained.spec, trained.model.token_head()

    @jax.jit
    def places(pixels: Any) -> Any:
        x = normalize(pixels.astype(np.float32) / 255, spec.mean, spec.std)
        logits = token_logits(trained.model, trained.variables[""], x, form)[1]
        return jax.nn.softmax(logits, axis=-1)

    maps = [np.asarray(places(images[i : i + 250])) for i in range(0, len(images), 250)]
    return np.take_along_axis(
        np.concatenate(maps), labels[:, None, None, None], axis=-1
    )[..., 0]


def overlap(places: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Returns the IoU with the digit's cells, and the AUC within an image.

    A cell belongs to the digit if at least a twentieth of it is ink. "iou" thresholds
    each map half-way between its minimum and maximum. "auc" needs no threshold: it is
    how often a cell of the digit has a higher value than another cell of the same image
    (chance is 0.5).
    """
    n, p, q = places.shape
    share = masks.reshape(n, p, masks.shape[1] // p, q, -1).mean((2, 4))
    ink = share >= 0.05
    low, high = places.min((1, 2), keepdims=True), places.max((1, 2), keepdims=True)
    hot = places > (low + high) / 2
    union = (hot | ink).sum((1, 2))
    iou = (hot & ink).sum((1, 2)) / np.maximum(union, 1)
    auc = []
    for values, digit in zip(places.reshape(n, -1), ink.reshape(n, -1), strict=True):
        if digit.any() and not digit.all():
            above = values[digit][:, None] - values[~digit][None]
            auc.append(float((above > 0).mean() + (above == 0).mean() / 2))
    everything = ink.mean((1, 2)).mean()  # the IoU when every cell is marked
    return {
        "iou": float(iou.mean()),
        "auc": statistics.mean(auc),
        "iou of marking all": float(everything),
    }


def picture(path: Any, images: Any, masks: Any, labels: Any, maps: Any) -> None:
    """Draws each image beside its mask and the maps, coloured by class probability."""
    tiles, words = [], []
    for i in range(16):
        size = (128, 128)
        large = cv2.resize(images[i], size, interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(masks[i], size, interpolation=cv2.INTER_NEAREST)
        row = [large, np.repeat((255 * mask).astype(np.uint8)[..., None], 3, 2)]
        for places in maps.values():
            classes = np.full(places[i].shape, labels[i])
            row.append(overlaid(large, classes, places[i]))
        tiles.append(np.hstack(row))
        words.append(f"{labels[i]}: image, mask, {', '.join(maps)}")
    contact_sheet(tiles, words, path, columns=2, zoom=1.0)


if __name__ == "__main__":
    main()

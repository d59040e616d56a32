"""Measures the gain of a small DeiT from distillation, on digit_scenes.

    python benchmarks/distilling.py --out runs/distilling

The teacher is a CoAtNet, whose convolutions need fewer images. It trains first, without
augmentation. Then a DeiT trains twice from every seed on random crops (with --mix also
mixup and cutmix): alone, and with the teacher's logits for the same images. Both runs
of a seed have the same initial parameters, order of images and random draws. Prints the
accuracies and the paired differences. Repeat a killed command to resume.
"""

import argparse
import json
import pathlib

import trainings


STUDENT = (
    "--config.model.name=deit_tiny_patch16_224",
    "--config.model.global_pool=token",
    "--config.augment.crop=random_resized",
    "--config.augment.crop_scale=(0.4,1.0)",
)
MIX = ("--config.augment.mixup=0.8", "--config.augment.cutmix=1.0")
ARMS = {
    "alone": (),
    "distilled": (
        "--config.loss.classification.dist_weight=0",
        "--config.loss.classification.weight=0.1",
        "--config.loss.distillation.name=soft",
        "--config.loss.distillation.weight=0.9",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default="runs/distilling")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--mix", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    teacher = given.out / "teacher"

    def train(
        folder: pathlib.Path, family: str, *flags: str, core: int | None = None
    ) -> float:
        config = f"configs/families.py:family={family},epochs={given.epochs}"
        data = f"--config.data.name=digit_scenes/{given.size}"
        value = trainings.train(folder, config, data, *flags, core=core)
        print(f"{folder.name}: {100 * value:.2f} %", flush=True)
        return value

    taught = train(teacher, "coatnet")

    def student(arm: str, seed: int, core: int) -> float:
        flags = [*STUDENT, *ARMS[arm], *(MIX if given.mix else ())]
        flags.append(f"--config.seed={seed}")
        if arm != "alone":
            flags.append(f"--config.teacher.sources={teacher}")
        return train(given.out / f"{arm}_{seed}", "vit", *flags, core=core)

    cores = trainings.Cores()
    jobs = {
        (arm, seed): cores.submit(student, arm, seed)
        for seed in range(given.seeds)
        for arm in ARMS
    }
    accuracy = {
        arm: [jobs[arm, seed].result() for seed in range(given.seeds)] for arm in ARMS
    }
    gains = trainings.gains(accuracy, "alone")
    result = {"teacher": taught, "accuracy": accuracy, "gains": gains}
    (given.out / "distilling.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

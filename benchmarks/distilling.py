"""What distillation gains a small DeiT on digit_scenes, over paired seeds.

    python benchmarks/distilling.py --out runs/distilling

A CoAtNet, whose convolutions need fewer images, learns first; its logits of the
training images are stored by `relabel`. Then a DeiT trains from every seed alone and
distilled. A seed gives all arms the same parameters and the same order of images.
Prints the accuracies with the paired differences; a killed command goes on.
"""

import argparse
import json
import pathlib

import trainings


STUDENT = (
    "--config.model.name=deit_tiny_patch16_224",
    "--config.model.global_pool=token",
)
ARMS = {
    "alone": (),
    "soft": (
        "--config.loss.classification.dist_weight=0",
        "--config.loss.classification.weight=0.5",
        "--config.loss.distillation.name=soft",
        "--config.loss.distillation.weight=0.5",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default="runs/distilling")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=12.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    teacher, pack = given.out / "teacher", given.out / "pack"

    def train(
        folder: pathlib.Path, family: str, *flags: str, core: int | None = None
    ) -> float:
        config = f"configs/families.py:family={family},epochs={given.epochs}"
        data = f"--config.data.name=digit_scenes/{given.size}"
        value = trainings.train(folder, config, data, *flags, core=core)
        print(f"{folder.name}: {100 * value:.2f} %", flush=True)
        return value

    taught = train(teacher, "coatnet")
    trainings.call("relabel", f"--teacher={teacher}", f"--out={pack}", "--top=10")

    def student(arm: str, seed: int, core: int) -> float:
        flags = [*STUDENT, *ARMS[arm], f"--config.seed={seed}"]
        if arm != "alone":
            flags.append(f"--config.teacher.pack={pack}")
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

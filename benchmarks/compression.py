"""Measures accuracy after quantising and pruning, on digit_scenes.

    python benchmarks/compression.py --out runs/compression

Trains a small DeiT, Swin and LV-ViT from every seed. From each it derives, with the
commands of docs/compression.md: calibrated INT8; INT8 and 4-bit weights after QAT; the
model pruned to 60 % of its multiply-accumulates by three criteria and fine-tuned; and
QAT of the model pruned by gradients. It then compares their ONNX files in onnxruntime.
Prints Markdown tables and writes OUT/compression.json. Repeat a killed command to
resume.
"""

import argparse
import functools
import json
import pathlib
import statistics
from typing import Any

import trainings


FAMILIES = {
    "deit": (
        "vit",
        "--config.model.name=deit_tiny_patch16_224",
        "--config.model.global_pool=token",
    ),
    "swin": ("swin",),
    "lv_vit": ("lv_vit",),
}
CRITERIA = ("gradient", "output_norm", "confidence")
FLOPS = 0.6
QUANTISED = ("int8, calibrated", "int8, QAT", "w4a8, QAT", "pruned, int8, QAT")
PRUNED = tuple(f"pruned by {criterion}" for criterion in CRITERIA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default="runs/compression")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--tune_epochs", type=float, default=4.0)
    parser.add_argument("--qat_epochs", type=float, default=2.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cores = trainings.Cores()
    runs = {}
    for seed in range(given.seeds):
        for name in given.families.split(","):
            chain = Chain(given, name, seed)
            runs[name, seed] = chain, cores.submit(chain.train)
    for _, trained in runs.values():
        trained.result()
    # One after another, on an idle machine, because files are timed.
    results = {}
    for (name, seed), (chain, _) in runs.items():
        chain.files()
        results[f"{name} {seed}"] = chain.done
    (given.out / "compression.json").write_text(json.dumps(results, indent=1) + "\n")
    print(accuracies([chain for chain, _ in runs.values()]))
    print(sizes([chain for (_, seed), (chain, _) in runs.items() if not seed]))


class Chain:
    """A float run and everything derived from it; `done` holds the measurements."""

    def __init__(self, given: Any, name: str, seed: int) -> None:
        self.given, self.name, self.seed = given, name, seed
        self.base = given.out / f"{name}_{seed}"
        self.base.mkdir(exist_ok=True)
        self.criteria = [c for c in given.criteria.split(",") if c]
        self.record = self.base / "done.json"
        self.done: dict[str, Any] = {}
        if self.record.exists():
            self.done = json.loads(self.record.read_text())

    def train(self, core: int) -> None:
        """Runs every training, one after another."""
        given, base = self.given, self.base
        family, *flags = FAMILIES[self.name]
        data = f"--config.data.name=digit_scenes/{given.size}"
        train = functools.partial(trainings.train, core=core)
        self._step(
            "float",
            train,
            base / "float",
            f"configs/families.py:family={family},epochs={given.epochs}",
            *(data, f"--config.seed={self.seed}", *flags),
        )
        self._step("int8, calibrated", self._calibrated, core)
        qat = f"configs/qat_deit_s.py:epochs={given.qat_epochs},init="
        self._step("int8, QAT", train, base / "int8", f"{qat}{base / 'float'}")
        self._step("w4a8, QAT", train, base / "w4a8", f"{qat}{base / 'float'},bits=4")
        for criterion in self.criteria:
            self._step(f"pruned by {criterion}", self._pruned, criterion, core)
        if CRITERIA[0] not in self.criteria:
            return
        tuned = base / CRITERIA[0] / "tuned"
        self._step("pruned, int8, QAT", train, base / "small_int8", f"{qat}{tuned}")

    def files(self) -> None:
        """Writes the ONNX files; compares each on 2,000 test images and times it."""
        files = [("float", None), ("int8", "--int8")]
        if CRITERIA[0] in self.criteria:
            files += [(f"{CRITERIA[0]}/tuned", None), ("small_int8", "--int8")]
        for run, switch in files:
            self._step(f"file of {run}", self._file, run, switch)

    def _step(self, key: str, job: Any, *args: Any) -> None:
        if key not in self.done:
            self.done[key] = job(*args)
            self.record.write_text(json.dumps(self.done, indent=1) + "\n")
            print(f"{self.name} {self.seed} {key}: {self.done[key]}", flush=True)

    def _calibrated(self, core: int) -> float:
        workdir, out = self.base / "float", self.base / "calibrated"
        if not out.exists():
            trainings.call(
                "quantize", f"--workdir={workdir}", f"--out={out}", core=core
            )
        text = trainings.call("evaluate", f"--workdir={out}", "--json", core=core)
        return json.loads(text)["accuracy"]

    def _pruned(self, criterion: str, core: int) -> float:
        out = self.base / criterion
        if not out.exists():
            trainings.call(
                *("prune", f"--workdir={self.base / 'float'}", f"--out={out}"),
                *(f"--flops={FLOPS}", f"--criterion={criterion}"),
                core=core,
            )
        config = f"{out / 'finetune.py'}:epochs={self.given.tune_epochs}"
        return trainings.train(out / "tuned", config, core=core)

    def _file(self, run: str, switch: str | None) -> dict[str, Any]:
        out = self.base / f"{run.replace('/', '_')}.onnx"
        text = trainings.call(
            *("export", f"--workdir={self.base / run}", f"--out={out}"),
            *("--check=2000", "--json", *([switch] if switch else [])),
        )
        return json.loads(text)


def accuracies(chains: list[Chain]) -> str:
    """Formats each seed's accuracy, and the mean relative to float."""
    lines = ["| | " + " | ".join(dict.fromkeys(c.name for c in chains)) + " |"]
    lines.append("|---|" + "---|" * (lines[0].count("|") - 2))
    for key in ("float", *QUANTISED, *PRUNED):
        cells = []
        for name in dict.fromkeys(c.name for c in chains):
            runs = [c.done for c in chains if c.name == name and key in c.done]
            if not runs:
                cells.append("not run here")
                continue
            share = statistics.mean(100 * run[key] / run["float"] for run in runs)
            each = " ".join(f"{100 * run[key]:.2f}" for run in runs)
            cells.append(f"{each}: {share:.2f} % of float")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sizes(chains: list[Chain]) -> str:
    """Formats accuracy, MB and milliseconds per image of the files."""
    return "\n".join(
        f"{chain.name} {key}: {json.dumps(value)}"
        for chain in chains
        for key, value in chain.done.items()
        if key.startswith("file of")
    )


if __name__ == "__main__":
    main()

"""Measures the cost of loss terms and regularisers in a whole training step.

    python benchmarks/objective_cost.py deit_s --rounds 10
    python benchmarks/objective_cost.py lvvit_s --rounds 10
    python benchmarks/objective_cost.py regularisers --rounds 10

The steps of a set differ only in what is listed here. They take the same batches in
turns, so that load on the machine affects all of them. The teacher's labels come with
each batch from a label pack, so the cost of the teacher is not in the step.

    deit_s         configs/deit_s_tricks.py: cross-entropy against 0.7 CE + 0.3 focal
                   and soft distillation
    lvvit_s        configs/lvvit_s.py: cross-entropy of both heads against 0.7 CE + 0.3
                   focal, token labels and soft distillation
    regularisers   configs/deit_s.py without any, against each one alone

Fails if anything is compiled after the first step.
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
from label_pack import random_pack
from race import Batch, Turn, race, ratio
from train_step import many_classes

from vit_jax_tricks import config
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.train import experiment


PACK = "PACK"  # placeholder for the folder of the labels
STORED = {
    "teacher.pack": PACK,
    "loss.classification.name": "smoothed_focal",
    "loss.distillation.name": "soft",
    "loss.distillation.tau": "3.0",
    "loss.distillation.weight": "0.5",
    "loss.classification.dist_weight": "0.0",
}
NONE = {"model.drop_path_rate": "0.0", "ema.decay": "None"}
# The config, and the changes of each step by name; the first step is the base.
SETS: dict[str, tuple[str, dict[str, dict[str, str]]]] = {
    "deit_s": (
        "configs/deit_s_tricks.py",
        {"plain CE": {"loss.classification.name": "softmax"}, "all terms": STORED},
    ),
    "lvvit_s": (
        "configs/lvvit_s.py",
        {
            "plain CE": {},
            "all terms": {
                **STORED,
                "loss.classification.dense_weight": "0.0",
                "loss.token_labels.name": "softmax",
                "loss.token_labels.class_weight": "0.0",
            },
        },
    ),
    "regularisers": (
        "configs/deit_s.py",
        {
            "none": NONE,
            "drop path 0.1": {**NONE, "model.drop_path_rate": "0.1"},
            "patch dropout 0.1": {**NONE, "model.patch_drop_rate": "0.1"},
            "attention dropout 0.1": {**NONE, "model.attn_drop_rate": "0.1"},
            "LayerScale": {**NONE, "model.init_values": "1e-5"},
            "EMA": {**NONE, "ema.decay": "0.9999"},
        },
    ),
}


def build(spec: str, changes: dict[str, str], pack: pathlib.Path) -> Any:
    """Builds the experiment of a contestant."""
    typed = {k: str(pack) if v == PACK else v for k, v in changes.items()}
    return experiment.build(config.load(spec, typed.items()))


def contestant(x: Any) -> tuple[Turn, dict[str, float]]:
    """Returns its step and the cost that the compiler reports."""
    step, state = x.compile_train_step(), x.compile_init()
    names = list(x.batch_shape(train=True))

    def turn(batch: Batch) -> Any:
        nonlocal state
        placed = x.put({name: batch[name] for name in names})
        state, metrics = step(state, placed, x.place_frozen())
        return jax.block_until_ready((state, metrics))[1]["loss"]

    analysis: Any = step.cost_analysis() or {}
    costs = {"flops": analysis["flops"], "bytes": analysis["bytes accessed"]}
    return turn, costs


def batches(x: Any, pack: pathlib.Path) -> Iterator[Batch]:
    """Yields a few batches of random pixels over and over, with the pack's labels."""
    labels = LabelPack.open(pack)
    b, rng = x.batch_size, np.random.default_rng(0)
    made = []
    for _ in range(4):
        index = rng.permutation(x.task.data.num_train)[:b].astype(np.int32)
        label = [x.task.data.whole_train[int(i)][1] for i in index]
        batch = {"index": index, "label": np.array(label, np.int32)}
        box = np.tile(np.array([0.1, 0.1, 0.7, 0.7], np.float32), (b, 1))
        image = rng.integers(0, 256, (b, 224, 224, 3), np.uint8)
        rows = labels.rows(x.task.data.example_ids(index))
        made.append(batch | rows | {"box": box, "image": image})
    return itertools.cycle(made)


def main() -> None:
    """Builds the steps of a set, runs them in turns, prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=pathlib.Path, help="also write the result here")
    options = parser.parse_args()
    file, changes = SETS[options.set]
    load = [os.getloadavg()[0]]
    turns, costs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "images").mkdir()
        data = many_classes(root / "images")
        spec = f"{file}:data={data},batch_size={options.batch}"
        first = build(spec, {}, root)
        pack = random_pack(first.task.data, root / "pack")
        for name, change in changes.items():
            turns[name], costs[name] = contestant(build(spec, change, pack))
        stream = batches(first, pack)
    seconds, compilations = race(turns, options.rounds, stream)
    load.append(os.getloadavg()[0])

    base = next(iter(turns))
    width = max(map(len, turns)) + 2
    heads = ("min s", "median s", "min", "median", "paired", "FLOPs", "bytes")
    print("\n" + " " * width + "".join(f"{head:>10}" for head in heads))
    ratios = {}
    for name, times in seconds.items():
        ratios[name] = ratio(times, seconds[base]) | {
            key: value / costs[base][key] for key, value in costs[name].items()
        }
        row = (min(times), statistics.median(times), *ratios[name].values())
        print(f"{name:{width}}" + "".join(f"{value:10.3f}" for value in row))
    print(
        f"\nratios are to {base}; compilations after step one: {compilations}; load "
        f"average before and after: {load[0]:.2f} {load[1]:.2f}"
    )
    if options.json:
        result = {"seconds": seconds, "costs": costs, "ratios": ratios, "load": load}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    assert not compilations, f"{compilations} compilations after step one"


if __name__ == "__main__":
    main()

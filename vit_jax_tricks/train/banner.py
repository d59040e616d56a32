"""Start banner: what will run, its size and its cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax_tricks import console
from vit_jax_tricks.compress.quant.range_store import without_ranges
from vit_jax_tricks.console import si
from vit_jax_tricks.flops import count_flops
from vit_jax_tricks.tasks.task import batch_of
from vit_jax_tricks.train.experiment import Experiment


def forward_flops(experiment: Experiment, size: int | None = None) -> float:
    """FLOPs of one example's forward pass, counted from its jaxpr (2 for each MAC).

    `size` is a variant of the task, such as the side of its images.
    """
    task, variables = experiment.task.at(size), experiment.state_shape().variables
    one = batch_of(task.eval_batch, 1)
    return float(count_flops(task.forward or task.evaluate, variables, one).flops)


def facts(experiment: Experiment) -> dict[str, Any]:
    """The rows that need no compiled program."""
    x, config = experiment, experiment.config.to_dict()
    devices = list(x.mesh.devices.flat)
    params = jax.tree.leaves(without_ranges(x.state_shape().variables)["params"])
    flops = forward_flops(x)
    mesh = " × ".join(f"{k} {v}" for k, v in x.mesh.shape.items() if v > 1)
    micro = f", {x.accumulate} micro-batches" if x.accumulate > 1 else ""
    return {
        "model": x.task.title,
        "parameters": f"{sum(p.size for p in params):,}",
        "forward": f"{si(flops, 'FLOP')} per image ({si(flops / 2, 'MAC')})",
        **x.task.facts,
        "devices": f"{len(devices)} × {devices[0].device_kind}"
        + (f" (mesh {mesh})" if mesh else ""),
        "effective batch": f"{x.batch_size}{micro}",
        "peak learning rate": f"{x.peak_lr:.3g} ({config['schedule']['name']}, "
        f"{config['optimizer']['name']})",
        "steps": f"{x.total_steps:,} "
        f"({x.total_steps * x.batch_size / x.task.num_train:.1f} epochs)",
    }


def show(
    experiment: Experiment,
    train_steps: Mapping[int | None, Any],
    workdir: Path,
    compile_seconds: float,
) -> tuple[dict[int | None, float], dict[str, Any]]:
    """Prints the banner; returns the training FLOPs of one image, and the rows.

    The FLOPs are those of each size of `train_steps`. A training step costs three
    forward passes: one forward, two backward. The memory is that of the largest size.
    """
    rows = facts(experiment)
    largest = max(train_steps, key=lambda size: size or 0)
    memory = train_steps[largest].memory_analysis()
    if memory is not None:
        used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        each = " on each device" if experiment.mesh.size > 1 else ""
        rows["memory"] = (
            f"{si(used, 'B')}{each} (state and batch "
            f"{si(memory.argument_size_in_bytes, 'B')}, "
            f"temporary {si(memory.temp_size_in_bytes, 'B')})"
        )
    programs = f" ({len(train_steps)} training steps)" if len(train_steps) > 1 else ""
    rows["compiled in"] = f"{compile_seconds:.1f} s{programs}"
    rows["workdir"] = workdir
    console.banner(str(experiment.config.to_dict()["name"]), rows)
    return {size: 3 * forward_flops(experiment, size) for size in train_steps}, rows

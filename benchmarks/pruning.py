"""Wall time of a model and of its pruned self, side by side in one process.

python benchmarks/pruning.py [--flops=0.6] [--batch=8] [--rounds=10] [NAME...] times
jitted forward passes on the first device, the two taking turns, and prints the median
of each and of their ratios. Weights are random, scores are output norms of noise.
"""

import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.compress.prune_model import prune
from vit_jax_tricks.models import create_model


NAMES = (
    *("deit_small_patch16_224", "swin_tiny_patch4_window7_224", "lvvit_s"),
    *("t2t_vit_14", "convit_small"),
)


def measure(name: str, *, flops: float, batch: int, rounds: int) -> dict[str, float]:
    """Shares of MACs and parameters, milliseconds of a batch, and their ratio."""
    model: Any = create_model(name)
    images = jax.random.normal(jax.random.key(0), (batch, *model.image_shape))
    variables = jax.jit(model.init)(jax.random.key(1), images[:1])
    labels = jnp.zeros((batch,), jnp.int32)
    small = prune(
        model, variables, [(images, labels)], flops=flops, criterion="output_norm"
    )
    passes = []
    for module, weights in ((model, variables), (small.model, small.variables)):
        run = jax.jit(lambda w, x, module=module: module.apply(w, x, train=False)[0])
        passes.append((run.lower(weights, images).compile(), weights))
    times: list[list[float]] = []
    for _ in range(rounds + 1):  # the first one warms up
        one = []
        for run, weights in passes:
            start = time.perf_counter()
            jax.block_until_ready(run(weights, images))
            one.append(1e3 * (time.perf_counter() - start))
        times.append(one)
    full, less = zip(*times[1:], strict=True)
    count = [sum(x.size for x in jax.tree.leaves(w)) for _, w in passes]
    return {
        "macs": small.macs / small.full_macs,
        "parameters": count[1] / count[0],
        "full_ms": statistics.median(full),
        "pruned_ms": statistics.median(less),
        "ratio": statistics.median(a / b for a, b in zip(full, less, strict=True)),
    }


def main() -> None:
    options = {"flops": 0.6, "batch": 8, "rounds": 10}
    names = []
    for word in sys.argv[1:]:
        key, equals, value = word.removeprefix("--").partition("=")
        if equals:
            options[key] = type(options[key])(value)
        else:
            names.append(word)
    device = jax.devices()[0].device_kind
    print(f"{device}, batch {options['batch']}, jax {jax.__version__}")
    print("| model | MACs | parameters | full ms | pruned ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in names or NAMES:
        got = measure(
            name,
            flops=float(options["flops"]),
            batch=int(options["batch"]),
            rounds=int(options["rounds"]),
        )
        print(
            f"| {name} | {got['macs']:.1%} | {got['parameters']:.1%} | "
            f"{got['full_ms']:.0f} | {got['pruned_ms']:.0f} | {got['ratio']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Times a model and its pruned version side by side in one process.

python benchmarks/pruning.py [--flops=0.6] [--batch=8] [--rounds=10] [NAME...] times
jitted forward passes on the first device and, as ONNX files, in onnxruntime on one
thread. The whole and the pruned model take turns. Prints the medians in milliseconds
and their ratios. Weights are random; the scores are output norms for noise images.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.compress.pruning.pruned import prune
from vit_jax_tricks.export import onnx_model, proof, to_onnx
from vit_jax_tricks.models import create_model


NAMES = (
    *("deit_small_patch16_224", "swin_tiny_patch4_window7_224", "lvvit_s"),
    *("t2t_vit_14", "convit_small"),
)


def measure(name: str, *, flops: float, batch: int, rounds: int) -> dict[str, float]:
    """Returns shares of MACs and parameters, and milliseconds per batch."""
    model: Any = create_model(name)
    images = jax.random.normal(jax.random.key(0), (batch, *model.image_shape))
    variables = jax.jit(model.init)(jax.random.key(1), images[:1])
    labels = jnp.zeros((batch,), jnp.int32)
    small = prune(
        model, variables, [(images, labels)], flops=flops, criterion="output_norm"
    )
    pairs = ((model, variables), (small.model, small.variables))
    ms = {}
    for kind, make in (("jax", in_jax), ("onnx", in_onnx)):
        both: dict[str, proof.Function] = {
            name: make(*pair)
            for name, pair in zip(("full", "pruned"), pairs, strict=True)
        }
        times = proof.latency(both, np.asarray(images), [batch], rounds=rounds)
        ms |= {f"{kind} {which}": found[batch] for which, found in times.items()}
    count = [sum(x.size for x in jax.tree.leaves(w)) for _, w in pairs]
    return ms | {
        "macs": small.macs / small.full_macs,
        "parameters": count[1] / count[0],
    }


def in_jax(model: Any, variables: Any) -> proof.Function:
    run = jax.jit(lambda w, x: model.apply(w, x, train=False)[0])
    return lambda images: np.asarray(run(variables, images))


def in_onnx(model: Any, variables: Any) -> proof.Function:
    graph = to_onnx(model, variables, model.image_shape)
    return proof.onnx_function(onnx_model.serialized(graph))


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
    heads = ("model", "MACs", "parameters", "JAX ms", "onnxruntime ms, 1 thread")
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for name in names or NAMES:
        got = measure(
            name,
            flops=float(options["flops"]),
            batch=int(options["batch"]),
            rounds=int(options["rounds"]),
        )
        cells = [name, f"{got['macs']:.1%}", f"{got['parameters']:.1%}"]
        for kind in ("jax", "onnx"):
            full, less = got[f"{kind} full"], got[f"{kind} pruned"]
            cells.append(f"{full:.0f} / {less:.0f}: {full / less:.2f}x")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Compares float and INT8 ONNX files of whole families in onnxruntime.

    python benchmarks/export.py deit_small_patch16_224 swin_tiny_patch4_window7_224
    python benchmarks/export.py deit_small_patch16_224 --against=timm --batches=1,8

All files run in turns on one thread; the table shows medians. Weights and images are
random, so the figures are about correctness and speed, not about accuracy.
Prints a Markdown table: the largest difference of the float file from JAX, the largest
difference of the INT8 file from the fake-quantised model beside the largest logit, MB,
and milliseconds at each batch size. `--against=timm` needs torch and timm. It adds
timm's model with the same weights, exported by torch.onnx (by its default exporter and
by the older one) and quantised by onnxruntime's quantize_static. `--exact` adds our
INT8 file with the products that CPUs without VNNI need.
"""

import argparse
import importlib.util
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timm_onnx

from vit_jax_tricks import compress, create_model
from vit_jax_tricks.export import cpu, proof, tensorrt_problems, to_onnx, to_onnx_int8
from vit_jax_tricks.pretrained.export import reference_arrays


def weights(model: Any, images: Any) -> Any:
    """Returns the initial variables plus noise, so that no bias is zero and dropped."""
    rng = np.random.default_rng(0)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def noisy(leaf: Any) -> Any:
        return leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(noisy, variables)


def row(name: str, given: argparse.Namespace, batches: tuple[int, ...]) -> str:
    """Returns one model's lines of the table: its own and one per contestant."""
    model: Any = create_model(name)
    shape = model.image_shape
    images = np.random.default_rng(1).standard_normal((8, *shape), np.float32)
    variables = weights(model, jnp.asarray(images[:1]))
    rules = compress.standard_rules()
    ranges = compress.calibrate(model, variables, [jnp.asarray(images)], rules)
    graphs = {
        "float": to_onnx(model, variables, shape),
        "int8": to_onnx_int8(model, variables, ranges, rules, shape),
    }
    assert tensorrt_problems(graphs["int8"]) == []
    files = {key: graph.SerializeToString() for key, graph in graphs.items()}
    functions = {key: proof.onnx_function(content) for key, content in files.items()}

    @jax.jit
    def plain(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, train=False)[0]

    @jax.jit
    def fake(variables: Any, ranges: Any, x: Any) -> Any:
        return compress.quantized_apply(model, variables, x, ranges, rules)[0]

    logits = np.asarray(plain(variables, images))
    difference = np.abs(functions["float"](images) - logits).max()
    quantized = np.asarray(fake(variables, ranges, images))
    distance = np.abs(functions["int8"](images) - quantized).max()
    if given.exact:
        functions["int8, exact"] = proof.onnx_function(files["int8"], exact=True)
    if given.against:
        theirs = timm_onnx.functions(name, reference_arrays(variables, name), images)
        check(theirs, images, logits)
        functions |= theirs
    times = proof.latency(functions, images, batches, rounds=given.rounds)
    cells = [
        name,
        f"{difference:.1e}",
        f"{distance:.1e} of {np.abs(logits).max():.1f}",
        " / ".join(f"{len(content) / 1e6:.1f}" for content in files.values()),
    ]
    for size in batches:
        plain_ms, int8_ms = times["float"][size], times["int8"][size]
        cells.append(f"{plain_ms:.1f} / {int8_ms:.1f}: {plain_ms / int8_ms:.2f}x")
    lines = [cells]
    for other in [key for key in functions if key not in graphs]:
        shown = [f"{times[other][n]:.1f}: {ratio(times, other, n)}" for n in batches]
        lines.append([f"{name}, {other}", "", "", "", *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(times: dict[str, dict[int, float]], other: str, size: int) -> str:
    """Returns a contestant's time divided by that of our file of the same kind."""
    own = "float" if "float" in other else "int8"
    return f"{times[other][size] / times[own][size]:.2f} of our {own}'s"


def check(
    theirs: dict[str, proof.Function], images: np.ndarray, logits: np.ndarray
) -> None:
    """Checks that their float files equal our model and their INT8 files are close."""
    for name, function in theirs.items():
        worst = np.abs(function(images) - logits).max()
        most = 1e-3 if "float" in name else 0.5 * np.abs(logits).max()
        assert worst < most, f"{name} differs by {worst}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=proof.ROUNDS)
    parser.add_argument("--against", choices=["timm"])
    parser.add_argument("--exact", action="store_true")
    given = parser.parse_args()
    missing = [n for n in ("torch", "timm") if importlib.util.find_spec(n) is None]
    if given.against and missing:
        parser.error(f"--against=timm needs {missing[0]}: pip install torch timm")
    batches = tuple(map(int, given.batches.split(",")))
    print(f"{platform.machine()}, int8 products {cpu.products()}\n")
    heads = ["", "float − JAX", "INT8 − fake-quantised", "MB", *map(str, batches)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in given.names:
        print(row(name, given, batches), flush=True)


if __name__ == "__main__":
    main()

"""Times several .onnx files side by side in onnxruntime.

    python benchmarks/onnx_files.py float.onnx small.onnx int8.onnx

The files run in turns on one thread, with random images of the size that the first file
takes. Prints a Markdown table of MB and, for each batch size, the medians in
milliseconds and the speed-up over the first file.
"""

import argparse
import pathlib

import numpy as np
import onnx

from vit_jax_tricks.export import proof


def image_shape(content: bytes) -> list[int]:
    """Returns [h, w, c] of a file's input."""
    (images,) = onnx.load_from_string(content).graph.input
    return [axis.dim_value for axis in images.type.tensor_type.shape.dim[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    batches = tuple(map(int, given.batches.split(",")))
    contents = {str(file): file.read_bytes() for file in given.files}
    first = str(given.files[0])
    shape = (8, *image_shape(contents[first]))
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    functions = {name: proof.onnx_function(data) for name, data in contents.items()}
    times = proof.latency(functions, images, batches, rounds=given.rounds)
    heads = ["", "MB", *(f"batch {size}" for size in batches)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, found in times.items():
        cells = [name, f"{len(contents[name]) / 1e6:.2f}"]
        for size in batches:
            ratio = times[first][size] / found[size]
            cells.append(f"{found[size]:.2f} ms: {ratio:.2f}x")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

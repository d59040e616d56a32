"""Compares an exported file with the model it was made from, and times both."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_tricks.export import cpu
from vit_jax_tricks.typing import Float, Int


BATCHES = (1, 8, 32)  # batch sizes whose latency is measured
ROUNDS, SECONDS = 15, 4.0  # limits for each batch size; seconds cover all rounds
LEAST_ROUNDS = 3
PRECISE = ("session.x64quantprecision", "1")

Function = Callable[[Float[np.ndarray, "b h w c"]], Float[np.ndarray, "b k"]]


def onnx_function(source: str | bytes, *, exact: bool | None = None) -> Function:
    """The function in an .onnx file or its bytes, run by onnxruntime on one thread.

    `exact` enables `PRECISE`; by default it is enabled if int8 products would otherwise
    saturate (`cpu.saturates`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if cpu.saturates() if exact is None else exact:
        options.add_session_config_entry(*PRECISE)
    session = onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"]
    )
    (name,) = (given.name for given in session.get_inputs())

    def run(images: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b k"]:
        return np.asarray(session.run(None, {name: images})[0])

    return run


def compare(
    file: Float[np.ndarray, "n k"],
    reference: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n"] | None = None,
) -> dict[str, float]:
    """Differences between two sets of logits.

    `max_difference` over all logits, `top1_agreement` in 0..1 and, with labels, the
    `accuracy` of the file and the `accuracy_reference`.
    """
    best, expected = file.argmax(-1), reference.argmax(-1)
    found = {
        "max_difference": float(np.abs(file - reference).max()),
        "top1_agreement": float((best == expected).mean()),
    }
    if labels is not None:
        found["accuracy"] = float((best == labels).mean())
        found["accuracy_reference"] = float((expected == labels).mean())
    return found


def latency(
    functions: Mapping[str, Function],
    images: Float[np.ndarray, "n h w c"],
    batches: Sequence[int] | None = None,
    rounds: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, float]]:
    """Median milliseconds of each function for each batch size, timed in turns.

    `batches` default to `BATCHES`. `rounds` sets the exact number of rounds; by default
    they run for `SECONDS`, but at least `LEAST_ROUNDS` and at most `ROUNDS`. `images`
    are repeated if there are too few; `check` may raise to stop.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in functions}
    for size in batches or BATCHES:
        part = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        times: dict[str, list[float]] = {name: [] for name in functions}
        for function in functions.values():
            function(part)  # compiles, or warms up
        began = time.perf_counter()
        for done in range(rounds or ROUNDS):
            over = time.perf_counter() - began > SECONDS and done >= LEAST_ROUNDS
            if over and rounds is None:
                break
            for name, function in functions.items():
                check()
                start = time.perf_counter()
                function(part)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            found[name][size] = 1e3 * statistics.median(seconds)
    return found


def outputs(function: Function, images: Any, size: int = 32) -> Any:
    """Logits of all images, computed `size` at a time."""
    parts = [images[at : at + size] for at in range(0, len(images), size)]
    return np.concatenate([np.asarray(function(part)) for part in parts])

"""Runs contestants in turns, so that load on the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


PAUSE = 0.3  # seconds between turns, because OpenMP's threads spin on for a while
Batch = dict[str, np.ndarray]
Turn = Callable[[Batch], Any]  # one step, to its end


def race(
    turns: dict[str, Turn], rounds: int, stream: Iterator[Batch]
) -> tuple[dict[str, list[float]], int]:
    """Returns the seconds of every turn, and the compilations after step one."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    jax.jit(lambda x: x + len(turns))(1.0)
    assert compiled  # compilations are reported
    for turn in turns.values():
        turn(next(stream))
    compiled.clear()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(rounds):
        batch = next(stream)
        for name, turn in turns.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            turn(batch)
            seconds[name].append(time.perf_counter() - began)
        times = "  ".join(f"{name} {s[-1]:.2f}" for name, s in seconds.items())
        print(f"round {i + 1}/{rounds}  {times}", flush=True)
    return seconds, len(compiled)


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Returns the ratio of minima, of medians, and the median of each round's ratio."""
    return {
        "min": min(over) / min(under),
        "median": statistics.median(over) / statistics.median(under),
        "paired": statistics.median(a / b for a, b in zip(over, under, strict=True)),
    }

"""Contestants take turns on one machine, so that a busy spell meets all of them."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


PAUSE = 0.3  # seconds between turns: OpenMP's threads spin on for a while
Batch = dict[str, np.ndarray]
Turn = Callable[[Batch], Any]  # one step, to its end


def race(
    turns: dict[str, Turn], rounds: int, stream: Iterator[Batch]
) -> tuple[dict[str, list[float]], int]:
    """Seconds of every turn, and how often something was compiled after step one."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    jax.jit(lambda x: x + len(turns))(1.0)
    assert compiled  # so we do hear of compilations
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
    """Of the minima, of the medians, and the median of the rounds' own ratios."""
    return {
        "min": min(over) / min(under),
        "median": statistics.median(over) / statistics.median(under),
        "paired": statistics.median(a / b for a, b in zip(over, under, strict=True)),
    }

"""Runs and trained models: load, evaluate, predict, prune, quantise.

Each name is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable

    from vit_jax_tricks.runs.data import open_data
    from vit_jax_tricks.runs.prediction import predict
    from vit_jax_tricks.runs.pruning import prune
    from vit_jax_tricks.runs.quantization import quantize
    from vit_jax_tricks.runs.trained import Trained, load

    evaluate: Callable[..., dict[str, int | float]]

__all__ = ["Trained", "evaluate", "load", "open_data", "predict", "prune", "quantize"]

_HOME = {
    "Trained": "runs.trained",
    "evaluate": "tasks.evaluation",  # the run's task says how
    "load": "runs.trained",
    "open_data": "runs.data",
    "predict": "runs.prediction",
    "prune": "runs.pruning",
    "quantize": "runs.quantization",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"vit_jax_tricks.{_HOME[name]}")
    return getattr(home, name)

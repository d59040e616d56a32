"""Runs and trained models: load, evaluate, predict, prune, quantise.

Each name is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from vit_jax_tricks.runs.data import open_data
    from vit_jax_tricks.runs.evaluation import evaluate
    from vit_jax_tricks.runs.prediction import predict
    from vit_jax_tricks.runs.pruning import prune
    from vit_jax_tricks.runs.quantization import quantize
    from vit_jax_tricks.runs.trained import Trained, load

__all__ = ["Trained", "evaluate", "load", "open_data", "predict", "prune", "quantize"]

_HOME = {
    "Trained": "trained",
    "evaluate": "evaluation",
    "load": "trained",
    "open_data": "data",
    "predict": "prediction",
    "prune": "pruning",
    "quantize": "quantization",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOME[name]}")
    return getattr(home, name)

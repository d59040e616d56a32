"""Transformer image-classification tricks in JAX, each one a small pure function."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from vit_jax_tricks.models import create_model, list_models
    from vit_jax_tricks.pretrained import export_weights, load_pretrained

__version__ = "0.1.0"

__all__ = ["create_model", "export_weights", "list_models", "load_pretrained"]

_HOME = {
    "create_model": "vit_jax_tricks.models",
    "list_models": "vit_jax_tricks.models",
    "load_pretrained": "vit_jax_tricks.pretrained",
    "export_weights": "vit_jax_tricks.pretrained",
    # Modules under the names of version 0.1.0.
    "checkpoint": "vit_jax_tricks.storage",
    "experiment": "vit_jax_tricks.train",
    "made_run": "vit_jax_tricks.runs",
    "metrics": "vit_jax_tricks.train",
    "model_spec": "vit_jax_tricks.runs",
    "optimizer": "vit_jax_tricks.optim",
    "quantizing": "vit_jax_tricks.runs",
    "schedule": "vit_jax_tricks.optim",
    "step": "vit_jax_tricks.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    if hasattr(home, name):
        return getattr(home, name)
    return importlib.import_module(f"{_HOME[name]}.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

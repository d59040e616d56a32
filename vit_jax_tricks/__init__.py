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
}
# Modules that stood at the top of version 0.1.0.
_MOVED = {
    "checkpoint": "storage.checkpoint",
    "experiment": "train.experiment",
    "made_run": "runs.made_run",
    "metrics": "train.metrics",
    "model_spec": "runs.model_spec",
    "optimizer": "optim.optimizer",
    "quantizing": "runs.quant_config",
    "schedule": "optim.schedule",
    "step": "train.step",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return importlib.import_module(f"vit_jax_tricks.{_MOVED[name]}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

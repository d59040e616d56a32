"""Training: the step, an experiment made concrete, and the loop around it."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from vit_jax_tricks.train.loop import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("vit_jax_tricks.train.loop").run

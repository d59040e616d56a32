"""Teachers and their labels, inside the training step or stored beforehand."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from vit_jax_tricks.teach.relabelling import relabel

__all__ = ["relabel"]


def __getattr__(name: str) -> Any:
    if name != "relabel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.relabelling").relabel

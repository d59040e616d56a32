"""Imports torchvision for timm, even if it was built for another torch."""

import contextlib
import importlib
from typing import Any


_KEPT: list[Any] = []  # declarations live as long as their library object


def load(torch: Any) -> None:
    """Makes `import timm` work.

    Raises: ImportError where torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # its compiled operators did not load: declare them
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):
                library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
        _KEPT.append(library)
        importlib.import_module("torchvision")

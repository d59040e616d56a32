"""Arrays as they come from a source, before they meet a model."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np


# What wrappers of a training program put before a name.
WRAPPERS = ("module.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by reference key.

    Attributes:
      source: what messages call it.
      arrays: by key, in the reference's layouts.
      native: keys and layouts are our own: `params/blocks_0/attn/qkv/kernel`.
      averaged: these are moving averages, and there are plain weights too.
      unneeded: keys left out on purpose; listed as unused, never refused.
      bilinear: position tables and patches are resampled bilinearly, without
        antialiasing, as timm does for `.npz` files.
      ranges: of a quantised run, by the paths of `compress.range_store.by_layer`.
      act_layer: the activation that the file was trained with, where its format says.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    native: bool = False
    averaged: bool = False
    unneeded: tuple[str, ...] = ()
    bilinear: bool = False
    ranges: Mapping[str, np.ndarray] | None = None
    act_layer: str | None = None

    def replace(self, **changes: Any) -> "Weights":
        return dataclasses.replace(self, **changes)


def unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without `module.` and `_orig_mod.` before their names."""
    pattern = "|".join(map(re.escape, WRAPPERS))
    return {re.sub(rf"^({pattern})+", "", name): v for name, v in arrays.items()}

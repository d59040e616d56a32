"""Arrays as they come from a source, before they meet a model."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vit_jax_tricks.errors import UserError


# What wrappers of a training program put before a name.
WRAPPERS = ("module.", "_orig_mod.")
LIGHTNING = "model."
FLOATS = ("float16", "bfloat16", "float32", "float64")
# Compressed weights are seldom below half their size; a bomb is a thousandth.
SMALL, RATIO = 1 << 30, 100


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by reference key.

    Attributes:
      source: what messages call it.
      arrays: by key, in the reference's layouts.
      native: keys and layouts are our own: `params/blocks_0/attn/qkv/kernel`.
      averaged: these are moving averages.
      unneeded: keys left out on purpose; listed as unused, never refused.
      before_head: those of them that the file's own head needs.
      bilinear: position tables and patches are resampled bilinearly, without
        antialiasing, as timm does for `.npz` files.
      grid: rows and columns of the position table, where the source says.
      ranges: of a quantised run, by the paths of `compress.range_store.by_layer`.
      act_layer: the activation that the file was trained with, where its format says.
      notes: what else a user should know about the file.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    native: bool = False
    averaged: bool = False
    unneeded: tuple[str, ...] = ()
    before_head: tuple[str, ...] = ()
    bilinear: bool = False
    grid: tuple[int, int] | None = None
    ranges: Mapping[str, np.ndarray] | None = None
    act_layer: str | None = None
    notes: tuple[str, ...] = ()

    def replace(self, **changes: Any) -> "Weights":
        return dataclasses.replace(self, **changes)


def unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without what wrappers put before their names.

    `module.` and `_orig_mod.` go from each name, `model.` where all names have it.
    """
    pattern = "|".join(map(re.escape, WRAPPERS))
    bare = {re.sub(rf"^({pattern})+", "", name): v for name, v in arrays.items()}
    if all(name.startswith(LIGHTNING) for name in bare):
        return {name.removeprefix(LIGHTNING): v for name, v in bare.items()}
    return bare


def refuse_type(source: str, name: str, dtype: Any) -> NoReturn:
    """Raises UserError about an array of a type that holds no plain weights."""
    raise UserError(
        f"{source}: {name} holds {dtype}, expected one of {', '.join(FLOATS)}; save "
        "the weights in one of these."
    )


def parts_of(
    source: str, arrays: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """The arrays that make up a fused one. Raises UserError unless all are floats."""
    for name in names:
        if name not in arrays:
            raise UserError(f"{source} lacks {name}; copy the file again.")
        if arrays[name].dtype.name not in FLOATS:
            refuse_type(source, name, arrays[name].dtype)
    return [arrays[name] for name in names]


def check_size(path: Path, unpacked: int) -> None:
    """Raises UserError about a file that unpacks to far more than it holds."""
    packed = path.stat().st_size
    if unpacked > max(SMALL, RATIO * packed):
        raise UserError(
            f"{path} has {packed:,} bytes and claims {unpacked:,} bytes of arrays, "
            "which no weight file does; it was not read."
        )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

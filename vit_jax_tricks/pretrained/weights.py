"""Arrays as read from a source, before they are matched to a model."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vit_jax_tricks.errors import UserError


# Prefixes that wrappers of training programs add to names.
WRAPPERS = ("module.", "_orig_mod.")
LIGHTNING = "model."
FLOATS = ("float16", "bfloat16", "float32", "float64")
# Weights seldom compress below half their size; a zip bomb is a thousandth.
SMALL, RATIO = 1 << 30, 100


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by reference key.

    Attributes:
      source: its name in messages.
      arrays: by key, in the reference's layouts.
      native: whether keys and layouts are our own: `params/blocks_0/attn/qkv/kernel`.
      averaged: whether these are moving averages.
      unneeded: keys left out on purpose; listed as unused, never rejected.
      before_head: those of them that the file's own head needs.
      bilinear: whether position tables and patches are resampled bilinearly, without
        antialiasing, as timm does for `.npz` files.
      grid: rows and columns of the position table, if the file states them.
      model: the model that the weights are of, if the source states it.
      ranges: of a quantised run, by the paths of `compress.quant.range_store.by_layer`.
      act_layer: the activation that the file was trained with, if its format states it.
      notes: further remarks about the file.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    native: bool = False
    averaged: bool = False
    unneeded: tuple[str, ...] = ()
    before_head: tuple[str, ...] = ()
    bilinear: bool = False
    grid: tuple[int, int] | None = None
    model: Any = None
    ranges: Mapping[str, np.ndarray] | None = None
    act_layer: str | None = None
    notes: tuple[str, ...] = ()

    def replace(self, **changes: Any) -> "Weights":
        return dataclasses.replace(self, **changes)


def unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the prefixes that wrappers add to names.

    `module.` and `_orig_mod.` are removed from each name, and `model.` if all names
    have it.
    """
    pattern = "|".join(map(re.escape, WRAPPERS))
    bare = {re.sub(rf"^({pattern})+", "", name): v for name, v in arrays.items()}
    if all(name.startswith(LIGHTNING) for name in bare):
        return {name.removeprefix(LIGHTNING): v for name, v in bare.items()}
    return bare


def refuse_type(source: str, name: str, dtype: Any) -> NoReturn:
    """Raises UserError for an array of a type that holds no plain weights."""
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
    """Raises UserError for a file that claims far more than it can hold."""
    packed = path.stat().st_size
    if unpacked > max(SMALL, RATIO * packed):
        raise UserError(
            f"{path} has {packed:,} bytes but claims {unpacked:,} bytes of arrays, "
            "which no weight file does; it was not read."
        )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Grids of quantised values: ranges of integers, or 8-bit floats."""

import dataclasses
import functools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float


FLOAT8 = {"float8_e4m3fn": jnp.float8_e4m3fn, "float8_e5m2": jnp.float8_e5m2}
_INTEGER = re.compile(r"(u?)int([2-8])(_narrow)?")


@dataclasses.dataclass(frozen=True)
class Grid:
    """The integers low, low + 1, ..., high or, with `float8`, all numbers of that type.

    `narrow` grids omit the lowest integer, -128 for int8, so that they are symmetric.
    `dtype` is the smallest type that stores the numbers.

    Raises: UserError if 0 is not between the ends, or 16 bits cannot hold them.
    """

    low: int | float
    high: int | float
    float8: str | None = None

    def __post_init__(self) -> None:
        whole = self.float8 or (self.low == int(self.low), self.high == int(self.high))
        if not self.low <= 0 < self.high or whole not in (self.float8, (True, True)):
            raise UserError(
                f"a grid from {self.low} to {self.high} must hold 0 between two whole "
                "numbers: Grid(-128, 127) is int8."
            )
        if self.dtype is None:
            raise UserError(
                f"a grid from {self.low} to {self.high} needs more than 16 bits."
            )

    @property
    def dtype(self) -> Any:
        """Storage type of a number of the grid."""
        if self.float8:
            return FLOAT8[self.float8]
        for dtype in (jnp.int8, jnp.uint8, jnp.int16, jnp.uint16):
            info = np.iinfo(dtype)
            if info.min <= self.low and self.high <= info.max:
                return dtype
        return None

    def round(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Rounds to the nearest number, ties to even.

        Values beyond the range of an 8-bit float are unchanged.
        """
        if not self.float8:
            return jnp.round(x)
        rounded = x.astype(self.dtype).astype(x.dtype)
        return jnp.where(jnp.abs(x) <= self.high, rounded, x)


@functools.lru_cache
def grid(name: str) -> Grid:
    """Returns the grid of a name: "int8", "uint4", "int8_narrow", "float8_e4m3fn", ...

    Integers have 2 to 8 bits; "_narrow" omits the lowest signed integer, as the weights
    of TensorRT and ONNX Runtime do.

    Raises: UserError for any other name.
    """
    if name in FLOAT8:
        high = float(jnp.finfo(FLOAT8[name]).max)
        return Grid(-high, high, name)
    found = _INTEGER.fullmatch(name)
    if found is None or (found[1] and found[3]):
        raise UserError(
            f'grid "{name}" is unknown: "int8" or "uint8" (2 to 8 bits), '
            f'"int8_narrow", {" or ".join(FLOAT8)}.'
        )
    bits = int(found[2])
    if found[1]:
        return Grid(0, 2**bits - 1)
    return Grid(-(2 ** (bits - 1)) + bool(found[3]), 2 ** (bits - 1) - 1)

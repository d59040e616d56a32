"""Values of jaxpr variables in the graph: tensors, constants and int8 levels."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from vit_jax_tricks.errors import UserError


@dataclasses.dataclass(frozen=True)
class Batch:
    """A size equal to `times` the number of images."""

    times: int


Size: TypeAlias = Any  # int or Batch
Shape: TypeAlias = tuple[Size, ...]


def sizes(shape: Sequence[Any], batch: Any) -> Shape:
    """Sizes of a traced shape; `batch` is JAX's symbolic number of images."""
    found = []
    for size in shape:
        times = size if isinstance(size, int) else size // batch
        if isinstance(size, int | np.integer):
            found.append(int(size))
        elif isinstance(times, int) and size - times * batch == 0:
            found.append(Batch(times))
        else:
            raise UserError(f"a size of {size}: expected a multiple of {batch}.")
    return tuple(found)


def product(shape: Sequence[Size]) -> Size:
    """Number of elements of a shape."""
    whole, batches = 1, 0
    for size in shape:
        batches += isinstance(size, Batch)
        whole *= size.times if isinstance(size, Batch) else size
    if batches > 1:
        raise UserError("a shape is quadratic in the number of images.")
    return Batch(whole) if batches else whole


def static(shape: Sequence[Size]) -> bool:
    """Whether no size depends on the number of images."""
    return not any(isinstance(size, Batch) for size in shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Output of a node.

    `dims` is its shape in the graph: that of `shape`, or 1 along axes still to be
    broadcast, which most operators do themselves.
    """

    name: str
    shape: Shape
    dims: Shape


@dataclasses.dataclass(frozen=True)
class Constant:
    """A value known at export; axes of `array` are as in `shape`, or 1 to broadcast."""

    array: np.ndarray
    shape: Shape

    @property
    def dims(self) -> Shape:
        return self.array.shape

    def full(self) -> np.ndarray:
        """The array in its full shape, which must not depend on the batch."""
        return np.broadcast_to(self.array, self.shape)


@dataclasses.dataclass(frozen=True)
class QuantizedConstant:
    """A weight as it is stored: (levels - zero_point) * scale.

    `scale` and `zero_point` have as many axes as `levels`, each of the same size or 1.
    """

    levels: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def shape(self) -> Shape:
        return self.levels.shape

    @property
    def dims(self) -> Shape:
        return self.levels.shape

    def dequantized(self) -> Constant:
        """The weight in float32."""
        wide = self.levels.astype(np.float32) - self.zero_point.astype(np.float32)
        return Constant(wide * self.scale, self.levels.shape)

    def rearranged(self, change: Any) -> "QuantizedConstant":
        """Applies `change`, such as a transposition, to levels and steps alike."""
        scale, zero_point = (
            change(np.broadcast_to(part, self.levels.shape))
            for part in (self.scale, self.zero_point)
        )
        return QuantizedConstant(change(self.levels), scale, zero_point)


Value: TypeAlias = Tensor | Constant | QuantizedConstant


def constant(array: Any) -> Constant:
    """A constant in its full shape."""
    array = np.asarray(array)
    return Constant(array, array.shape)

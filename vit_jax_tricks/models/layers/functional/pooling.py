"""Pooling of feature maps, following PyTorch's conventions."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float, Int


# Rows above and below, columns left and right.
Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0))


def same_pads(x: Float[Array, "b h w c"], size: int, stride: int) -> Pads:
    """TensorFlow's SAME padding: ceil(h / stride) outputs, an odd row at the end."""
    (top, bottom), (left, right) = jax.lax.padtype_to_pads(
        x.shape[1:3], (size,) * 2, (stride,) * 2, "SAME"
    )
    return (top, bottom), (left, right)


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, pads: Pads = NO_PADS
) -> Float[Array, "b i j c"]:
    """Maximum over each size x size window; padding is ignored."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, window, strides, ((0, 0), *pads, (0, 0))
    )


def avg_pool(
    x: Float[Array, "b h w c"],
    size: int,
    stride: int,
    pads: Pads = NO_PADS,
    *,
    count_pads: bool = False,
) -> Float[Array, "b i j c"]:
    """Mean over each size x size window, summed in at least float32.

    Divides by the number of window entries inside the map, or by all with `count_pads`.
    """
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    wide = at_least_float32(x.dtype)
    total = jax.lax.reduce_window(
        x.astype(wide), 0.0, jax.lax.add, window, strides, ((0, 0), *pads, (0, 0))
    )
    rows, columns = (
        np.full(n, size) if count_pads else _entries(length, n, size, stride, pad[0])
        for length, n, pad in zip(x.shape[1:3], total.shape[1:3], pads, strict=True)
    )
    count = np.outer(rows, columns)[None, :, :, None]
    return (total / jnp.asarray(count, wide)).astype(x.dtype)


def downsample(
    x: Float[Array, "b h w c"], kind: str, *, same: bool = False
) -> Float[Array, "b i j c"]:
    """Halves a map: "max" and "avg" 3x3 with padding 1, "max2" and "avg2" 2x2.

    The mean of "avg" excludes the padding. `same` pads as TensorFlow does, with zeros
    that count in the mean. Equivalent to the pooling of timm's `Downsample2d`.
    """
    size = 2 if kind.endswith("2") else 3
    pad = size // 2 if size == 3 else 0
    pads = same_pads(x, size, 2) if same else ((pad, pad), (pad, pad))
    if kind.startswith("max"):
        return max_pool(x, size, 2, pads)
    return avg_pool(x, size, 2, pads, count_pads=same)


DOWNSAMPLES = ("avg2", "avg", "max2", "max")

# Global pools from a map [b, h, w, d] to one vector for each image, by timm's names.
GLOBAL_POOLS: dict[str, Callable] = {
    "avg": lambda x: x.mean((1, 2)),
    "max": lambda x: x.max((1, 2)),
    "avgmax": lambda x: (x.mean((1, 2)) + x.max((1, 2))) / 2,
    "catavgmax": lambda x: jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=1),
}


def _entries(
    length: int, outputs: int, size: int, stride: int, before: int
) -> Int[np.ndarray, "n"]:
    """Number of entries of each window along one axis that lie inside the map."""
    start = np.arange(outputs) * stride - before
    return np.minimum(start + size, length) - np.maximum(start, 0)

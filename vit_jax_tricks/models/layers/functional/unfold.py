"""Overlapping windows of a map as tokens."""

import jax.numpy as jnp
from einops import rearrange

from vit_jax_tricks.typing import Array, Float


def unfold(
    x: Float[Array, "b h w c"], size: int, *, stride: int, padding: int
) -> Float[Array, "b i j f"]:
    """The size x size windows of a zero-padded map, each as one vector.

    Features are ordered (channel, row, column), f = c size^2, and
    i = floor((h + 2 padding - size) / stride) + 1. Made of slices: no products.
    Equivalent to torch.nn.Unfold (tested).
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for axis in (1, 2):  # rows, then columns, each as a new axis before the channels
        end = x.shape[axis] - size + 1
        before = (slice(None),) * axis
        taps = [x[(*before, slice(k, end + k, stride))] for k in range(size)]
        x = jnp.stack(taps, axis=-2)
    return rearrange(x, "b i j p q c -> b i j (c p q)")

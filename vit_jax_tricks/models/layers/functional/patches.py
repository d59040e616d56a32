"""Patches of a map as tokens: those side by side, and overlapping ones."""

import jax
import jax.numpy as jnp
from einops import rearrange

from vit_jax_tricks.typing import Array, Float


def patchify(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i j f"]:
    """Cuts images into patches, with features in the order (row, column, channel)."""
    return rearrange(x, "b (i p) (j q) c -> b i j (p q c)", p=size, q=size)


def patch_embed(
    x: Float[Array, "b h w c"], kernel: Float[Array, "p p c d"]
) -> Float[Array, "b i j d"]:
    """Convolution whose stride equals its kernel size, as one matrix product."""
    return jnp.matmul(
        patchify(x, kernel.shape[0]), rearrange(kernel, "p q c d -> (p q c) d")
    )


def unfold(
    x: Float[Array, "b h w c"], size: int, *, stride: int, padding: int
) -> Float[Array, "b i j f"]:
    """Extracts the size x size windows of a zero-padded map, each as one vector.

    Features are ordered (channel, row, column), f = c size^2, and i = floor((h + 2
    padding - size) / stride) + 1. Uses slices only, no products. Equivalent to
    torch.nn.Unfold (tested).
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for axis in (1, 2):  # rows, then columns, each as a new axis before the channels
        end = x.shape[axis] - size + 1
        before = (slice(None),) * axis
        taps = [x[(*before, slice(k, end + k, stride))] for k in range(size)]
        x = jnp.stack(taps, axis=-2)
    return rearrange(x, "b i j p q c -> b i j (c p q)")


def fold(
    windows: Float[Array, "b i j f"],
    size: int,
    shape: tuple[int, int],
    *,
    stride: int,
    padding: int,
) -> Float[Array, "b h w c"]:
    """Sums overlapping windows into maps of `shape` = (h, w): `unfold` transposed.

    Values that fall in the padding are cropped. Equivalent to torch.nn.Fold.
    """
    taps = rearrange(windows, "b i j (c p q) -> p q b i j c", p=size, q=size)
    zero = jnp.zeros((), windows.dtype)

    def spread(at: int, steps: int, length: int) -> tuple[int, int, int]:
        """Padding before, after and between the entries of one tap along one axis."""
        return at, length + 2 * padding - at - (steps - 1) * stride - 1, stride - 1

    rows, columns = windows.shape[1:3]
    maps = [
        jax.lax.pad(
            taps[p, q],
            zero,
            ((0, 0, 0), spread(p, rows, h), spread(q, columns, w), (0, 0, 0)),
        )
        for h, w in [shape]
        for p in range(size)
        for q in range(size)
    ]
    end = -padding or None
    return sum(maps[1:], start=maps[0])[:, padding:end, padding:end]

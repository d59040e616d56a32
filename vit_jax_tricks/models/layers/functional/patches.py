"""Conversion of images to patch tokens."""

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

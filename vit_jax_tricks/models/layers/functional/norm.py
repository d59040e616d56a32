"""Normalisation in at least float32."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def layer_norm(
    x: Float[Array, "*s d"],
    scale: Float[Array, "d"],
    bias: Float[Array, "d"],
    *,
    eps: float,
) -> Float[Array, "*s d"]:
    """Layer norm: (x - mean) / sqrt(var + eps) * scale + bias over the last axis.

    Computed and returned in at least float32, with the two-pass variance.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    wide = at_least_float32(x.dtype)
    x = x.astype(wide)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    rank = (1,) * (x.ndim - 1)
    return x * scale.astype(wide).reshape(*rank, -1) + bias.astype(wide).reshape(
        *rank, -1
    )

"""Talking-heads attention: mixes the heads before and after the softmax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def mix_heads(
    x: Float[Array, "b g n m"], kernel: Float[Array, "g k"], bias: Float[Array, "k"]
) -> Float[Array, "b k n m"]:
    """Linear map across heads, the same for every query and key."""
    mixed = jnp.einsum("bgnm,gk->bknm", x, kernel.astype(x.dtype))
    return mixed + bias.astype(x.dtype)[None, :, None, None]


def talking_heads_attention(
    q: Float[Array, "b n g h"],
    k: Float[Array, "b m g h"],
    v: Float[Array, "b m g h"],
    *,
    before: Callable,
    after: Callable,
    drop: Callable = lambda weights: weights,
) -> Float[Array, "b n g h"]:
    """after(softmax(before(h ** -0.5 * q k^T))) v, with heads mixed twice.

    `before` and `after` mix the heads. Both take and return [b, g, n, m] in at least
    float32 (`mix_heads`). `drop` is applied to the result of `after`.

    Source: Shazeer et al., 2020, arXiv:2003.02436.
    """
    wide = at_least_float32(q.dtype)
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bngh,bmgh->bgnm", q, k, preferred_element_type=wide)
    weights = drop(after(jax.nn.softmax(before(logits), axis=-1)))
    return jnp.einsum("bgnm,bmgh->bngh", weights.astype(v.dtype), v)

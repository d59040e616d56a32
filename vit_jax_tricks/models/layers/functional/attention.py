"""Scaled dot-product attention with the softmax in at least float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def attention_weights(
    q: Float[Array, "*b n g h"],
    k: Float[Array, "*b m g h"],
    *,
    scale: float | None = None,
    bias: Float[Array, "*#b #g n m"] | None = None,
) -> Float[Array, "*b g n m"]:
    """Attention probabilities: softmax over m of (scale * q . k + bias).

    `scale` defaults to h ** -0.5. b may stand for several axes, such as images and
    windows. The result is in at least float32, whatever the dtype of q and k.

    Source: Vaswani et al., 2017, arXiv:1706.03762.
    """
    wide = at_least_float32(q.dtype)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = jnp.einsum("...ngh,...mgh->...gnm", q, k, preferred_element_type=wide)
    if bias is not None:
        logits = logits + bias.astype(wide)
    return jax.nn.softmax(logits, axis=-1)


def attention(
    q: Float[Array, "*b n g h"],
    k: Float[Array, "*b m g h"],
    v: Float[Array, "*b m g h"],
    *,
    scale: float | None = None,
    bias: Float[Array, "*#b #g n m"] | None = None,
    drop: Callable = lambda weights: weights,
) -> Float[Array, "*b n g h"]:
    """Multi-head attention: softmax(scale * q k^T + bias) v, for each head g.

    `drop` is applied to the probabilities (dropout, or a recorder).

    Source: Vaswani et al., 2017, arXiv:1706.03762.
    """
    weights = drop(attention_weights(q, k, scale=scale, bias=bias))
    return jnp.einsum("...gnm,...mgh->...ngh", weights.astype(v.dtype), v)

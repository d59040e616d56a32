"""Attention with a learned gate between content and position."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.attention import attention_weights
from vit_jax_tricks.typing import Array, Float


def gated_position_weights(
    q: Float[Array, "b n g h"],
    k: Float[Array, "b m g h"],
    scores: Float[Array, "g r s"],
    gate: Float[Array, "g"],
    *,
    scale: float | None = None,
    prefix: int = 0,
) -> Float[Array, "b g n m"]:
    """Attention probabilities a / sum_m a of gated positional self-attention.

    a = (1 - sigmoid(gate)) softmax(scale * q . k) + sigmoid(gate) softmax(scores), over
    keys m. `scores` depend only on positions; `scale` defaults to h ** -0.5. The first
    `prefix` tokens have no position: n = prefix + r and m = prefix + s, and these
    tokens attend by content only and receive no positional weight. Computed in at least
    float32.

    Source: d'Ascoli et al., 2021 (ConViT), arXiv:2103.10697, equation 7; its
    `GPSA.get_attention`.
    """
    content = attention_weights(q, k, scale=scale)
    wide = content.dtype
    position = jax.nn.softmax(scores.astype(wide), axis=-1)[None]
    share = jax.nn.sigmoid(gate.astype(wide))[None, :, None, None]
    if prefix:
        position = jnp.pad(position, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))
        placed = jnp.arange(position.shape[2]) >= prefix
        share = jnp.where(placed[None, None, :, None], share, 0)
    weights = (1 - share) * content + share * position
    return weights / weights.sum(-1, keepdims=True)

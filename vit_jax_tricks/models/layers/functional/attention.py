"""Attention from queries, keys and values, with the softmax in at least float32."""

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
    before: Callable = lambda logits: logits,
) -> Float[Array, "*b g n m"]:
    """Attention probabilities: softmax over m of before(scale * q . k + bias).

    `scale` defaults to h ** -0.5. b may stand for several axes, such as images and
    windows. The result is in at least float32, whatever the dtype of q and k.

    Source: Vaswani et al., 2017, arXiv:1706.03762.
    """
    wide = at_least_float32(q.dtype)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = jnp.einsum("...ngh,...mgh->...gnm", q, k, preferred_element_type=wide)
    if bias is not None:
        logits = logits + bias.astype(wide)
    return jax.nn.softmax(before(logits), axis=-1)


def attention(
    q: Float[Array, "*b n g h"],
    k: Float[Array, "*b m g h"],
    v: Float[Array, "*b m g h"],
    *,
    scale: float | None = None,
    bias: Float[Array, "*#b #g n m"] | None = None,
    before: Callable = lambda logits: logits,
    drop: Callable = lambda weights: weights,
) -> Float[Array, "*b n g h"]:
    """Multi-head attention: softmax(before(scale * q k^T + bias)) v, for each head g.

    `before` is applied to the logits and `drop` to the probabilities (dropout, or a
    recorder).

    Source: Vaswani et al., 2017, arXiv:1706.03762.
    """
    weights = drop(attention_weights(q, k, scale=scale, bias=bias, before=before))
    return jnp.einsum("...gnm,...mgh->...ngh", weights.astype(v.dtype), v)


def with_key_bias(
    bias: Float[Array, "#b #g n n"] | None, key_bias: Float[Array, "b n"] | None
) -> Float[Array, "#b #g n n"] | None:
    """Adds `key_bias` to the attention bias of each key, for all heads and queries.

    The logarithm of a token's size makes it count as so many tokens; a large negative
    number hides it.
    """
    if key_bias is None:
        return bias
    b, n = key_bias.shape
    keys = jnp.broadcast_to(key_bias[:, None, None], (b, 1, n, n))
    return keys if bias is None else bias.astype(keys.dtype) + keys


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
    return attention(q, k, v, before=before, drop=lambda weights: drop(after(weights)))


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


def positive_features(
    x: Float[Array, "b n d"], w: Float[Array, "m d"]
) -> Float[Array, "b n m"]:
    """Positive random features exp(w x - |x|^2 / 2) / sqrt(m), in at least float32.

    With rows of `w` drawn from N(0, 1), the features of q times the features of k
    estimate exp(q . k). The exponents are computed at the highest precision, because
    they are not shifted by their maximum.

    Source: Choromanski et al., 2020 (Performer), arXiv:2009.14794.
    """
    wide = at_least_float32(x.dtype)
    x, w = x.astype(wide), w.astype(wide)
    wx = jnp.einsum("bnd,md->bnm", x, w, precision=jax.lax.Precision.HIGHEST)
    half_norm = jnp.square(x).sum(-1, keepdims=True) / 2
    return jnp.exp(wx - half_norm) / w.shape[0] ** 0.5


def kernel_attention(
    q: Float[Array, "b n m"],
    k: Float[Array, "b n m"],
    v: Float[Array, "b n d"],
    *,
    eps: float = 1e-8,
) -> Float[Array, "b n d"]:
    """Linear attention sum_j (q_i . k_j) v_j / (sum_j q_i . k_j + eps).

    q and k are features, such as `positive_features`.

    The sums over j come first, so the cost is linear in n. Computed and returned in the
    dtype of q.

    Source: Choromanski et al., 2020 (Performer), arXiv:2009.14794; T2T-ViT's
    `single_attn`.
    """
    total = jnp.einsum("bnm,bm->bn", q, k.sum(1))
    values = jnp.einsum("bnd,bnm->bdm", v.astype(q.dtype), k)
    return jnp.einsum("bnm,bdm->bnd", q, values) / (total[..., None] + eps)

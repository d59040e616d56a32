"""How far predictions are from soft labels."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.losses.inputs import masked, over_labelled, prepared
from vit_jax_tricks.typing import Array, Bool, Float, Label


@checked
def kl_divergence(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """KL(q | p) = sum_k q_k (log q_k - log p_k), p = softmax(z), with 0 log 0 = 0.

    The cross-entropy of `softmax_cross_entropy` less the entropy of the labels q: the
    same gradient for the logits (tested), and 0 for a perfect prediction. With
    `[b, n, k]` it is the loss of token labels. Examples outside `where` give 0.
    """
    logits, labels = prepared(where, logits, labels)
    log_q = jnp.log(jnp.where(labels > 0, labels, 1))
    log_p = over_labelled(jax.nn.log_softmax(logits, axis=-1), labels)
    return masked(jnp.sum(labels * (log_q - log_p), axis=-1), where)

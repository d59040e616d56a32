"""Kullback-Leibler divergence of predictions from soft labels."""

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

    This is `softmax_cross_entropy` minus the entropy of the labels q: it has the same
    gradient with respect to the logits (tested), and is 0 for a perfect prediction.
    With logits `[b, n, k]` it is the token-label loss. Examples outside `where` give 0.
    """
    logits, labels = prepared(where, logits, labels)
    log_q = jnp.log(jnp.where(labels > 0, labels, 1))
    log_p = over_labelled(jax.nn.log_softmax(logits, axis=-1), labels)
    return masked(jnp.sum(labels * (log_q - log_p), axis=-1), where)

"""Divergences of predictions from soft labels, and between several views."""

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


@checked
def symmetric_kl(
    *,
    logits: Float[Array, "*b k"],
    other_logits: Float[Array, "*b k"],
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """1/2 [KL(p | q) + KL(q | p)] of two predictions, p = softmax(z), q = softmax(z').

    This is 1/2 sum_k (p_k - q_k) (log p_k - log q_k). Both predictions get a gradient.
    Classes of probability 0 in both add nothing. Examples outside `where` give 0.

    Source: the divergence of R-Drop (Liang et al., 2021, arXiv:2106.14448).
    """
    logits, other = prepared(where, logits, other_logits)
    log_p, log_q = (jax.nn.log_softmax(z, axis=-1) for z in (logits, other))
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    gone = jnp.isinf(log_p) & jnp.isinf(log_q)
    log_p, log_q = (jnp.where(gone, 0, log) for log in (log_p, log_q))
    return masked(jnp.sum((p - q) * (log_p - log_q), axis=-1) / 2, where)


@checked
def jensen_shannon(
    *,
    logits: Float[Array, "v *b k"],
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Jensen-Shannon divergence between the predictions for v views of each image.

    1/v sum_i KL(p_i | m), with p_i = softmax(z_i) and m the mean of the p_i, clipped to
    at least 1e-7. AugMix adds this loss with weight 12 to the cross-entropy of the
    clean view; the views are the clean image and two images from `augment.aug_mix`.
    Examples outside `where` give 0.

    Equivalent to that part of timm's JsdCrossEntropy before its mean (tested).
    Source: Hendrycks et al., 2020, arXiv:1912.02781.
    """
    views = None
    if where is not None:
        views = jnp.broadcast_to(jnp.asarray(where)[None], logits.shape[:-1])
    (logits,) = prepared(views, logits)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    mixture = jnp.log(jnp.maximum(p.mean(axis=0), 1e-7))
    log_p = over_labelled(log_p, p)
    loss = jnp.sum(p * (log_p - mixture[None]), axis=-1).mean(axis=0)
    return masked(loss, where)

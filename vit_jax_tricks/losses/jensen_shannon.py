"""The consistency of predictions for several views of an image."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.losses.inputs import masked, over_labelled, prepared
from vit_jax_tricks.typing import Array, Bool, Float


@checked
def jensen_shannon(
    *,
    logits: Float[Array, "v *b k"],
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Jensen-Shannon divergence of the predictions for v views of each image.

    1/v sum_i KL(p_i | m), p_i = softmax(z_i), m = mean of the p_i, kept above 1e-7.
    AugMix adds 12 of it to the cross-entropy of the clean view, for the clean image and
    two of `augment.aug_mix`. Examples outside `where` give 0.

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

"""Distillation losses: soft, hard and on features. No gradient reaches the teacher."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.losses.classification import softmax_cross_entropy
from vit_jax_tricks.losses.inputs import Number, masked, over_labelled, prepared
from vit_jax_tricks.typing import Array, Bool, Float


SCALINGS = ("textbook", "deit")


@checked
def soft_distillation(
    *,
    logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    tau: Number = 3.0,
    scaling: str = "textbook",
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """tau^2 KL(softmax(teacher / tau) | softmax(student / tau)), summed over classes.

    Classes to which the teacher gives probability 0 add nothing, whatever their logits.
    With scaling "deit" the sum is divided by k, as in DeiT's code: for 1000 classes, a
    thousandth of the textbook loss. Examples outside `where` give 0.

    Equivalent, before the mean over the batch, to DeiT's DistillationLoss "soft" for
    "deit" and to timm's LogitDistillationTask for "textbook" (tested).

    Raises: UserError for tau <= 0 or an unknown scaling.
    Source: Hinton et al., 2015, arXiv:1503.02531.
    """
    if not tau > 0:
        raise UserError(f"tau={tau}: expected a temperature above 0, such as 3.")
    if scaling not in SCALINGS:
        raise UserError(f'scaling="{scaling}": unknown.{nearest(scaling, SCALINGS)}')
    student, teacher = prepared(where, logits, teacher_logits)
    log_p = jax.nn.log_softmax(student / tau, axis=-1)
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / tau, axis=-1)
    q = jnp.exp(log_q)
    log_p, log_q = over_labelled(log_p, q), over_labelled(log_q, q)
    loss = tau**2 * jnp.sum(q * (log_q - log_p), axis=-1)
    return masked(loss / logits.shape[-1] if scaling == "deit" else loss, where)


@checked
def hard_distillation(
    *,
    logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    smoothing: Number = 0.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Cross-entropy with the teacher's most likely class as the label, smoothed.

    Examples outside `where` give 0. Without smoothing, equivalent to DeiT's
    DistillationLoss "hard" before its mean (tested).

    Raises: UserError for smoothing outside [0, 1).
    Source: Touvron et al., 2021, arXiv:2012.12877.
    """
    best = jnp.argmax(teacher_logits, axis=-1)
    labels = jax.nn.one_hot(best, logits.shape[-1], dtype=logits.dtype)
    return softmax_cross_entropy(
        logits=logits, labels=labels, smoothing=smoothing, where=where
    )


@checked
def feature_distillation(
    *,
    features: Float[Array, "*b d"],
    teacher_features: Float[Array, "*b d"],
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Mean squared distance between features: mean_d (student - teacher)^2.

    With tokens `[b, n, d]` and the kept tokens as `where`, its `mean_where` is the
    token term of DynamicViT's loss with `mse_token` (tested); without that option, the
    token term is `soft_distillation` with tau 1. Positions outside `where` give 0.
    """
    student, teacher = prepared(where, features, teacher_features)
    distance = student - jax.lax.stop_gradient(teacher)
    return masked(jnp.mean(jnp.square(distance), axis=-1), where)

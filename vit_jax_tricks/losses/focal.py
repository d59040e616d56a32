"""Focal losses for k classes and soft labels: well-classified examples count less.

Four generalisations of -alpha (1 - p_y)^gamma log p_y to soft labels q. All four are
equal for one-hot labels. Here `alpha` balances no class against another; it scales the
loss. Pass unsmoothed labels: `smoothed_focal` smooths only its cross-entropy part. Rows
of labels that are all zero give 0. Source: Lin et al., 2017, arXiv:1708.02002.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.classification import softmax_cross_entropy
from vit_jax_tricks.losses.inputs import Number, masked, over_labelled, prepared
from vit_jax_tricks.typing import Array, Bool, Float, Label


@checked
def focal(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Focal loss per class: -alpha sum_k q_k (1 - p_k)^gamma log p_k, p = softmax(z).

    Linear in q, so the loss of a mixed label is the mix of its classes' losses.
    Examples outside `where` give 0.

    Raises: UserError for negative alpha or gamma.
    """
    log_p, labels = _log_p(where, logits, labels, alpha, gamma)
    each = labels * _one_minus(log_p, gamma) * log_p
    return masked(-alpha * each.sum(axis=-1), where)


@checked
def focal_pt(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Focal loss of the expected probability: -alpha (1 - t)^gamma log t.

    t = sum_k q_k p_k.

    Arguments and errors as in `focal`.
    """
    log_p, labels = _log_p(where, logits, labels, alpha, gamma)
    log_t = _log_expected(log_p, labels)
    return masked(-alpha * _one_minus(log_t, gamma) * log_t, where)


@checked
def focal_modulated(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Cross-entropy with a focal factor: alpha (1 - sum_k q_k p_k)^gamma CE(q, p).

    Arguments and errors as in `focal`.
    """
    log_p, labels = _log_p(where, logits, labels, alpha, gamma)
    cross_entropy = -jnp.sum(labels * log_p, axis=-1)
    scale = alpha * _one_minus(_log_expected(log_p, labels), gamma)
    return masked(scale * cross_entropy, where)


@checked
def focal_of_cross_entropy(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Focal loss as a function of the cross-entropy c: alpha (1 - exp(-c))^gamma c.

    It has the same minimiser as the cross-entropy. Arguments and errors as in `focal`.
    """
    log_p, labels = _log_p(where, logits, labels, alpha, gamma)
    negative = jnp.sum(labels * log_p, axis=-1)
    return masked(-alpha * _one_minus(negative, gamma) * negative, where)


@checked
def smoothed_focal(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    smoothing: Number = 0.1,
    focal_weight: Number = 0.3,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Adds a focal loss to cross-entropy: (1 - w) CE(smoothed q, p) + w focal(q, p).

    The focal part uses the labels q unsmoothed.

    Args:
      logits: z, p = softmax(z).
      labels: q, unsmoothed: one-hot or mixed.
      smoothing: label smoothing of the cross-entropy.
      focal_weight: w. As alpha scales the focal part, its effective weight at w = 0.3
        is 0.075.
      alpha, gamma: as in `focal`.
      where: examples that count; the others give 0.

    Raises: UserError for smoothing outside [0, 1), a weight outside [0, 1], or negative
      alpha or gamma.
    """
    if not 0 <= focal_weight <= 1:
        raise UserError(
            f"focal_weight={focal_weight}: expected 0 <= focal_weight <= 1."
        )
    given: dict[str, Any] = dict(logits=logits, labels=labels, where=where)
    smoothed = softmax_cross_entropy(**given, smoothing=smoothing)
    focused = focal(**given, alpha=alpha, gamma=gamma)
    return (1 - focal_weight) * smoothed + focal_weight * focused


def _log_p(
    where: Array | None, logits: Array, labels: Array, alpha: Number, gamma: Number
) -> tuple[Array, Array]:
    for name, value in (("alpha", alpha), ("gamma", gamma)):
        if not value >= 0:
            raise UserError(f"{name}={value}: expected {name} >= 0.")
    logits, labels = prepared(where, logits, labels)
    return over_labelled(jax.nn.log_softmax(logits, axis=-1), labels), labels


def _log_expected(log_p: Array, labels: Array) -> jax.Array:
    """log sum_k q_k p_k; 0 where all labels are zero."""
    some = jnp.any(labels > 0, axis=-1)
    labels = jnp.where(some[..., None], labels, 1 / labels.shape[-1])
    log_t = jax.nn.logsumexp(log_p, b=labels, axis=-1)
    return jnp.where(some, log_t, 0)


def _one_minus(log_t: Array, gamma: Number) -> jax.Array:
    """(1 - t)^gamma from log t, with a finite gradient where t rounds to 1."""
    rest = -jnp.expm1(log_t)
    inside = rest > 0
    power = jnp.power(jnp.where(inside, rest, 1), gamma)
    return jnp.where(inside, power, 0.0 if gamma else 1.0).astype(log_t.dtype)

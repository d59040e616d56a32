"""Losses on soft class labels [b, k]."""

import jax.numpy as jnp
import optax

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Bool, Float


def _float32(
    logits: Float[Array, "*b k"], labels: Float[Array, "*b k"]
) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"]]:
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return jnp.asarray(logits).astype(dtype), jnp.asarray(labels).astype(dtype)


def _masked(
    loss: Float[Array, "*b"], where: Bool[Array, "*b"] | None
) -> Float[Array, "*b"]:
    return loss if where is None else jnp.where(where, loss, 0.0)


def smooth_labels(
    labels: Float[Array, "*b k"], *, smoothing: float
) -> Float[Array, "*b k"]:
    """Spreads a share of the label over all k classes: (1 - s) labels + s / k.

    The true class keeps 1 - s + s/k. Equivalent to timm's mixup targets (tested).
    Source: Szegedy et al. 2015, arXiv 1512.00567.
    """
    return optax.smooth_labels(labels, smoothing) if smoothing else labels


def softmax_cross_entropy(
    *,
    logits: Float[Array, "*b k"],
    labels: Float[Array, "*b k"],
    smoothing: float = 0.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Cross-entropy with soft labels: -sum_k q_k log softmax(z)_k, q smoothed.

    Examples outside `where` give 0. Equivalent to timm's SoftTargetCrossEntropy and,
    with one-hot labels, LabelSmoothingCrossEntropy, before their mean (tested).
    """
    logits, labels = _float32(logits, labels)
    labels = smooth_labels(labels, smoothing=smoothing)
    return _masked(optax.softmax_cross_entropy(logits, labels), where)


def sigmoid_binary_cross_entropy(
    *,
    logits: Float[Array, "*b k"],
    labels: Float[Array, "*b k"],
    smoothing: float = 0.0,
    target_threshold: float | None = None,
    sum_classes: bool = False,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """One binary cross-entropy a class, averaged (or summed) over the k classes.

    -q log sigmoid(z) - (1 - q) log sigmoid(-z), q smoothed, then q > threshold where a
    threshold is given: `target_threshold=0` makes both classes of a mixed image
    positive, as DeiT III does. Examples outside `where` give 0.

    Raises: UserError when smoothing alone would lift every class over the threshold.
    Equivalent to timm's BinaryCrossEntropy before its mean over the batch (tested).
    """
    logits, labels = _float32(logits, labels)
    if target_threshold is not None:
        floor = smoothing / logits.shape[-1]
        if floor > target_threshold:
            raise UserError(
                f"smoothing={smoothing} lifts every class to {floor:.3g}, over "
                f"target_threshold={target_threshold}: set smoothing=0."
            )
    labels = smooth_labels(labels, smoothing=smoothing)
    if target_threshold is not None:
        labels = (labels > target_threshold).astype(labels.dtype)
    each = optax.sigmoid_binary_cross_entropy(logits, labels)
    loss = each.sum(axis=-1) if sum_classes else each.mean(axis=-1)
    return _masked(loss, where)

"""Classification losses for soft labels [b, k]."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number, masked, over_labelled, prepared
from vit_jax_tricks.typing import Array, Bool, Float, Label


@checked
def smooth_labels(
    labels: Label[Array, "*b k"], *, smoothing: Number
) -> Float[Array, "*b k"]:
    """Spreads a share s of each label evenly over k classes: (1 - s) labels + s / k.

    The true class keeps 1 - s + s/k. Integer labels become float32. Equivalent to
    timm's mixup targets (tested).

    Raises: UserError for s outside [0, 1).
    Source: Szegedy et al., 2015, arXiv:1512.00567.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing={smoothing}: expected 0 <= smoothing < 1.")
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        labels = jnp.asarray(labels).astype(jnp.float32)
    return _spread(labels, smoothing, labels.shape[-1]) if smoothing else labels


def _spread(labels: Array, smoothing: Number, count: Any) -> jax.Array:
    return (1.0 - smoothing) * labels + smoothing / count


@checked
def softmax_cross_entropy(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    smoothing: Number = 0.0,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Cross-entropy with soft labels: -sum_k q_k log softmax(z)_k, q smoothed.

    A class with logit -inf and label 0 counts as absent: it adds nothing, and smoothing
    spreads over the remaining classes only. Examples outside `where` give 0.
    Equivalent, before the mean over the batch, to timm's SoftTargetCrossEntropy and,
    for one-hot labels, to its LabelSmoothingCrossEntropy (tested).

    Raises: UserError for smoothing outside [0, 1).
    """
    logits, labels = prepared(where, logits, labels)
    labels = _smoothed(logits, labels, smoothing)
    log_p = over_labelled(jax.nn.log_softmax(logits, axis=-1), labels)
    return masked(-jnp.sum(labels * log_p, axis=-1), where)


def _smoothed(logits: Array, labels: Array, smoothing: Number) -> Array:
    """Smooths the labels over the classes that are present."""
    smooth = smooth_labels(labels, smoothing=smoothing)
    if not smoothing:
        return labels
    absent = jnp.isneginf(logits) & (labels == 0)
    count = jnp.sum(~absent, axis=-1, keepdims=True, dtype=labels.dtype)
    over_some = _spread(labels, smoothing, jnp.maximum(count, 1))
    return jnp.where(absent, 0, jnp.where(count < labels.shape[-1], over_some, smooth))


@checked
def sigmoid_binary_cross_entropy(
    *,
    logits: Float[Array, "*b k"],
    labels: Label[Array, "*b k"],
    smoothing: Number = 0.0,
    binary_smoothing: Number = 0.0,
    target_threshold: Number | None = None,
    weight: Float[Array, "k"] | None = None,
    pos_weight: Float[Array, "k"] | Float[Array, ""] | Number | None = None,
    sum_classes: bool = False,
    where: Bool[Array, "*b"] | None = None,
) -> Float[Array, "*b"]:
    """Binary cross-entropy for each class, averaged (or summed) over the k classes.

    The loss of class k is w_k (-v_k q_k log sigmoid(z_k) - (1 - q_k) log
    sigmoid(-z_k)). A class with logit -inf and label 0 has loss 0 and takes no part in
    smoothing. Examples outside `where` give 0. Equivalent to timm's BinaryCrossEntropy
    before its mean over the batch (tested). timm smooths class ids as `smoothing` does;
    with `smooth_dense` it smooths multi-label targets as `binary_smoothing` does.

    Args:
      logits: z.
      labels: q, in [0, 1] for each class.
      smoothing: s in (1 - s) q + s / k.
      binary_smoothing: s in (1 - s) q + s / 2.
      target_threshold: if given, q is replaced by q > threshold. 0 makes both classes
        of a mixed image positive, as in DeiT III.
      weight: w, 1 if None.
      pos_weight: v, 1 if None.
      sum_classes: sums over the classes, as big_vision does.
      where: examples that count.

    Raises: UserError when smoothing is outside [0, 1), or would by itself lift every
      class above the threshold.
    """
    logits, labels = prepared(where, logits, labels)
    if not 0 <= binary_smoothing < 1:
        raise UserError(
            f"binary_smoothing={binary_smoothing}: expected 0 <= binary_smoothing < 1."
        )
    absent = jnp.isneginf(logits) & (labels == 0)
    labels = _smoothed(logits, labels, smoothing)
    labels = (1 - binary_smoothing) * labels + binary_smoothing / 2
    labels = jnp.where(absent, 0, labels)
    if target_threshold is not None:
        floor = smoothing / logits.shape[-1] * (1 - binary_smoothing)
        floor += binary_smoothing / 2
        if floor > target_threshold:
            name = "smoothing" if smoothing else "binary_smoothing"
            raise UserError(
                f"{name}={smoothing or binary_smoothing} lifts every class to "
                f"{floor:.3g}, over target_threshold={target_threshold}: set {name}=0."
            )
        labels = (labels > target_threshold).astype(labels.dtype)
    positive = -labels * over_labelled(jax.nn.log_sigmoid(logits), labels)
    if pos_weight is not None:
        positive = positive * _each_class(pos_weight, logits)
    negative = over_labelled(jax.nn.log_sigmoid(-logits), 1 - labels)
    each = positive - (1 - labels) * negative
    if weight is not None:
        each = each * _each_class(weight, logits)
    loss = each.sum(axis=-1) if sum_classes else each.mean(axis=-1)
    return masked(loss, where)


def _each_class(weight: Array | Number, logits: Float[Array, "*b k"]) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(weight).astype(logits.dtype), logits.shape)

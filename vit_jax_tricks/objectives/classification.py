"""Cross-entropy of the classifier's logits with (mixed, smoothed) labels."""

import functools
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Term, one_of, within


LOSSES = {
    "softmax": losses.softmax_cross_entropy,
    "sigmoid": losses.sigmoid_binary_cross_entropy,
    "focal": losses.focal,
    "focal_pt": losses.focal_pt,
    "focal_modulated": losses.focal_modulated,
    "focal_of_cross_entropy": losses.focal_of_cross_entropy,
    "smoothed_focal": losses.smoothed_focal,
}
FOCAL = {name: ("alpha", "gamma") for name in LOSSES if name.startswith("focal")}
OPTIONS = {  # the options that each loss reads
    "softmax": ("smoothing",),
    "sigmoid": ("smoothing", "target_threshold", "sum_classes"),
    **FOCAL,
    "smoothed_focal": ("smoothing", "focal_weight", "alpha", "gamma"),
}


def classification(
    *,
    name: str,
    smoothing: Number = 0.0,
    dense_weight: Number = 1.0,
    dist_weight: Number = 0.5,
    target_threshold: Number | None = None,
    sum_classes: bool = False,
    focal_weight: Number | None = None,
    alpha: Number | None = None,
    gamma: Number | None = None,
) -> Term:
    """A term: applies the loss `name` to every head of the model.

    A model with a second, distillation head trains both heads on the label; the term is
    (1 - dist_weight) times the first loss plus dist_weight times the second. With equal
    weights this equals hard distillation (Touvron et al., 2021, arXiv:2012.12877) under
    a teacher that is always right. dist_weight 0 leaves the second head to the term
    `distillation`.

    For a model with a dense head, `dense_weight` times the mean loss of its tokens is
    added; each token gets the label of its image. Under MixToken the label of the class
    head is lam y + (1 - lam) y_reversed, where lam is the share of the image's own
    tokens; the model un-mixes the dense outputs. Equivalent to TokenLabelCrossEntropy
    of TokenLabeling for labels [b, k] (tested).

    Args:
      name: softmax, sigmoid, smoothed_focal, or a variant from `losses.focal`: focal,
        focal_pt, focal_modulated, focal_of_cross_entropy.
      smoothing: label smoothing, for softmax, sigmoid and the cross-entropy of
        smoothed_focal.
      dense_weight: weight of the token loss.
      dist_weight: weight of the second head.
      target_threshold, sum_classes: as in `losses.sigmoid_binary_cross_entropy`.
      focal_weight: as in `losses.smoothed_focal`, 0.3 if None.
      alpha, gamma: as in `losses.focal`, 0.25 and 2 if None.

    Raises:
      UserError: an unknown loss, an option that the loss does not read, or a value out
        of range.
    """
    path = "config.loss.classification"
    one_of(path, "name", name, LOSSES)
    given = dict(
        smoothing=smoothing or None,
        target_threshold=target_threshold,
        sum_classes=sum_classes or None,
        focal_weight=focal_weight,
        alpha=alpha,
        gamma=gamma,
    )
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    for key, value in options.items():
        if key not in OPTIONS[name]:
            users = [other for other, keys in OPTIONS.items() if key in keys]
            raise UserError(
                f'{path}.{key}={value} does nothing for name="'
                f'{name}": leave it out, or use {", ".join(users)}.'
            )
    within(path, "smoothing", smoothing, below=1)
    within(path, "dist_weight", dist_weight, most=1)
    within(path, "focal_weight", focal_weight, most=1)
    for key, value in dict(dense_weight=dense_weight, alpha=alpha, gamma=gamma).items():
        within(path, key, value)
    loss = functools.partial(LOSSES[name], **options)
    if name == "smoothed_focal":
        loss = functools.partial(loss, smoothing=smoothing)

    def term(*, logits, aux, labels, targets=None):
        mixed = labels
        if "mix_lam" in aux:
            mixed = losses.mix_class_labels(labels, aux["mix_lam"])
        out = loss(logits=logits, labels=mixed)
        if "logits_dist" in aux and dist_weight:
            second = loss(logits=aux["logits_dist"], labels=labels)
            out = (1 - dist_weight) * out + dist_weight * second
        if "logits_aux" in aux and dense_weight:
            dense = aux["logits_aux"]
            each = jnp.broadcast_to(labels[:, None], dense.shape)
            out = out + dense_weight * loss(logits=dense, labels=each).mean(1)
        return out

    return term

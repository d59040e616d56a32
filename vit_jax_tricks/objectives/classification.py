"""Cross-entropy of the classifier's logits with (mixed, smoothed) labels."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import one_of, within
from vit_jax_tricks.typing import Array, Float


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


@dataclasses.dataclass(frozen=True)
class Classification:
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

    Attributes:
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

    name: str
    smoothing: Number = 0.0
    dense_weight: Number = 1.0
    dist_weight: Number = 0.5
    target_threshold: Number | None = None
    sum_classes: bool = False
    focal_weight: Number | None = None
    alpha: Number | None = None
    gamma: Number | None = None

    def __post_init__(self) -> None:
        path = "config.loss.classification"
        one_of(path, "name", self.name, LOSSES)
        for key, value in self._options().items():
            if key not in OPTIONS[self.name]:
                users = [other for other, keys in OPTIONS.items() if key in keys]
                raise UserError(
                    f'{path}.{key}={value} does nothing for name="'
                    f'{self.name}": leave it out, or use {", ".join(users)}.'
                )
        within(path, "smoothing", self.smoothing, below=1)
        within(path, "dist_weight", self.dist_weight, most=1)
        within(path, "focal_weight", self.focal_weight, most=1)
        for key in ("dense_weight", "alpha", "gamma"):
            within(path, key, getattr(self, key))

    def _options(self) -> dict[str, Any]:
        given = dict(
            smoothing=self.smoothing or None,
            target_threshold=self.target_threshold,
            sum_classes=self.sum_classes or None,
            focal_weight=self.focal_weight,
            alpha=self.alpha,
            gamma=self.gamma,
        )
        return {key: value for key, value in given.items() if value is not None}

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        labels: Float[Array, "b k"],
        logits_dist: Float[Array, "b k"] | None = None,
        logits_aux: Float[Array, "b n k"] | None = None,
        mix_lam: Float[Array, ""] | None = None,
    ) -> Float[Array, "b"]:
        loss = functools.partial(LOSSES[self.name], **self._options())
        if self.name == "smoothed_focal":
            loss = functools.partial(loss, smoothing=self.smoothing)
        mixed = labels
        if mix_lam is not None:
            mixed = losses.mix_class_labels(labels, mix_lam)
        out = loss(logits=logits, labels=mixed)
        if logits_dist is not None and self.dist_weight:
            second = loss(logits=logits_dist, labels=labels)
            out = (1 - self.dist_weight) * out + self.dist_weight * second
        if logits_aux is not None and self.dense_weight:
            each = jnp.broadcast_to(labels[:, None], logits_aux.shape)
            tokens = loss(logits=logits_aux, labels=each).mean(1)
            out = out + self.dense_weight * tokens
        return out

"""Cross-entropy with (mixed, smoothed) labels on the classifier's logits."""

import jax.numpy as jnp

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float


LOSSES = {
    "softmax": losses.softmax_cross_entropy,
    "sigmoid": losses.sigmoid_binary_cross_entropy,
}


def classification(*, name: str, smoothing: float = 0.0, dense_weight: float = 1.0):
    """A term: `name` is softmax or sigmoid, `smoothing` that of the labels.

    A model with a second, distillation head trains both heads on the label, and the
    term is their mean: what hard distillation (Touvron et al., 2021, arXiv:2012.12877)
    does under a teacher that is always right.

    A model with a dense head adds `dense_weight` times the mean loss of its tokens,
    each with the label of its image. Under MixToken the class head's label is that of
    the image and of its partner in the reversed batch, lam y + (1 - lam) y_reversed
    with lam the share of tokens of its own; dense outputs are un-mixed by the model.
    Equivalent to TokenLabelCrossEntropy of TokenLabeling for labels [b, k] (tested).

    Raises:
      UserError: an unknown loss, smoothing outside [0, 1), or a negative weight.
    """
    if name not in LOSSES:
        hint = nearest(name, LOSSES)
        raise UserError(f'config.loss.classification.name="{name}": unknown.{hint}')
    if not 0.0 <= smoothing < 1.0:
        raise UserError(
            f"config.loss.classification.smoothing={smoothing}: expected 0 <= s < 1."
        )
    if dense_weight < 0:
        raise UserError(
            f"config.loss.classification.dense_weight={dense_weight}: expected >= 0."
        )
    loss = LOSSES[name]

    def term(
        *, logits: Float[Array, "b k"], aux: dict, labels: Float[Array, "b k"]
    ) -> Float[Array, "b"]:
        labels = losses.smooth_labels(labels=labels, smoothing=smoothing)
        mixed = labels
        if "mix_lam" in aux:
            lam = aux["mix_lam"].astype(labels.dtype)
            mixed = lam * labels + (1 - lam) * labels[::-1]
        out = loss(logits=logits, labels=mixed)
        if "logits_dist" in aux:
            out = (out + loss(logits=aux["logits_dist"], labels=labels)) / 2
        if "logits_aux" in aux and dense_weight:
            dense = aux["logits_aux"]
            each = jnp.broadcast_to(labels[:, None], dense.shape)
            out = out + dense_weight * loss(logits=dense, labels=each).mean(1)
        return out

    return term

"""Cross-entropy with (mixed, smoothed) labels on the classifier's logits."""

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float


LOSSES = {
    "softmax": losses.softmax_cross_entropy,
    "sigmoid": losses.sigmoid_binary_cross_entropy,
}


def classification(*, name: str, smoothing: float = 0.0):
    """A term: `name` is softmax or sigmoid, `smoothing` that of the labels.

    A model with a second, distillation head trains both heads on the label, and the
    term is their mean: what hard distillation (Touvron et al., 2021, arXiv:2012.12877)
    does under a teacher that is always right.

    Raises:
      UserError: an unknown loss, or smoothing outside [0, 1).
    """
    if name not in LOSSES:
        hint = nearest(name, LOSSES)
        raise UserError(f'config.loss.classification.name="{name}": unknown.{hint}')
    if not 0.0 <= smoothing < 1.0:
        raise UserError(
            f"config.loss.classification.smoothing={smoothing}: expected 0 <= s < 1."
        )
    loss = LOSSES[name]

    def term(
        *, logits: Float[Array, "b k"], aux: dict, labels: Float[Array, "b k"]
    ) -> Float[Array, "b"]:
        labels = losses.smooth_labels(labels=labels, smoothing=smoothing)
        out = loss(logits=logits, labels=labels)
        if "logits_dist" in aux:
            out = (out + loss(logits=aux["logits_dist"], labels=labels)) / 2
        return out

    return term

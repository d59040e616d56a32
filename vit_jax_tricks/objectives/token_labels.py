"""A term that trains a dense head on token labels."""

import dataclasses

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import one_of, within
from vit_jax_tricks.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class TokenLabels:
    """A term: soft labels for the image and for each of its tokens.

    class_weight loss(image) + dense_weight mean_n loss(token), with the targets
    `class_labels` [b, k] and `token_labels` [b, n, k], the logits and the model's
    `logits_aux` [b, n, k]. MixToken mixes the class labels. With class_weight 0, the
    term `classification` trains the class head and no class labels are needed.

    Equivalent to TokenLabelCrossEntropy of TokenLabeling (tested).

    Attributes:
      name: softmax, or kl: minus the entropy of the labels, with the same gradient.
      class_weight: weight of the image's loss.
      dense_weight: weight of the tokens' loss; 0.5 in the paper, 1 in the released
        code.
      correct: mixes the class labels with the true ones, as the reference's option
        ground_truth does.

    Raises:
      UserError: an unknown name or a negative weight.
    """

    name: str = "softmax"
    class_weight: Number = 1.0
    dense_weight: Number = 1.0
    correct: bool = False

    def __post_init__(self) -> None:
        path = "config.loss.token_labels"
        one_of(path, "name", self.name, ("softmax", "kl"))
        within(path, "class_weight", self.class_weight)
        within(path, "dense_weight", self.dense_weight)
        if self.correct and not self.class_weight:
            raise UserError(
                f"{path}.correct=True does nothing with class_weight=0: leave it out."
            )

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        logits_aux: Float[Array, "b n k"],
        labels: Float[Array, "b k"],
        token_labels: Float[Array, "b m c"],
        class_labels: Float[Array, "b k"] | None = None,
        mix_lam: Float[Array, ""] | None = None,
    ) -> Float[Array, "b"]:
        path = "config.loss.token_labels"
        if token_labels.shape != logits_aux.shape:
            raise UserError(
                f"{path}: the labels are {token_labels.shape}, the dense head's logits "
                f"{logits_aux.shape}; make labels of the model's grid."
            )
        image = class_labels if self.class_weight else None
        if self.class_weight and image is None:
            raise UserError(
                f"{path} with class_weight={self.class_weight} needs "
                'targets["class_labels"].'
            )
        if image is not None and self.correct:
            image = losses.corrected_class_labels(
                class_labels=image, true_labels=labels
            )
        if image is not None and mix_lam is not None:
            image = losses.mix_class_labels(image, mix_lam)
        return losses.token_label_cross_entropy(
            logits=logits,
            dense_logits=logits_aux,
            class_labels=image,
            token_labels=token_labels,
            class_weight=self.class_weight,
            dense_weight=self.dense_weight,
            minus_entropy=self.name == "kl",
        )

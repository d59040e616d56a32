"""A term that trains a dense head on token labels."""

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Targets, one_of, output, target, within
from vit_jax_tricks.typing import Array, Float


def token_labels(
    *,
    name: str = "softmax",
    class_weight: Number = 1.0,
    dense_weight: Number = 1.0,
    correct: bool = False,
):
    """A term: soft labels for the image and for each of its tokens.

    class_weight loss(image) + dense_weight mean_n loss(token), with the targets
    "class_labels" [b, k] and "token_labels" [b, n, k], the logits and aux["logits_aux"]
    [b, n, k]. MixToken mixes the class labels. With class_weight 0, the term
    `classification` trains the class head and no class labels are needed.

    Equivalent to TokenLabelCrossEntropy of TokenLabeling (tested).

    Args:
      name: softmax, or kl: minus the entropy of the labels, with the same gradient.
      class_weight: weight of the image's loss.
      dense_weight: weight of the tokens' loss; 0.5 in the paper, 1 in the released
        code.
      correct: mixes the class labels with the true ones, as the reference's option
        ground_truth does.

    Raises:
      UserError: an unknown name, a negative weight, or a missing output or target.
    """
    path = "config.loss.token_labels"
    one_of(path, "name", name, ("softmax", "kl"))
    within(path, "class_weight", class_weight)
    within(path, "dense_weight", dense_weight)
    if correct and not class_weight:
        raise UserError(
            f"{path}.correct=True does nothing with class_weight=0: leave it out."
        )
    loss = losses.kl_divergence if name == "kl" else losses.softmax_cross_entropy

    def term(
        *,
        logits: Float[Array, "b k"],
        aux: dict,
        labels: Float[Array, "b k"],
        targets: Targets = None,
    ) -> Float[Array, "b"]:
        dense = output(aux, "logits_aux", "token_labels")
        each = target(targets, "token_labels", "token_labels")
        if each.shape != dense.shape:
            raise UserError(
                f"{path}: the labels are {each.shape}, the dense "
                f"head's logits {dense.shape}; make labels of the model's grid."
            )
        out = dense_weight * loss(logits=dense, labels=each).mean(1)
        if not class_weight:
            return out
        image = target(targets, "class_labels", "token_labels")
        if correct:
            image = losses.corrected_class_labels(
                class_labels=image, true_labels=labels
            )
        if "mix_lam" in aux:
            image = losses.mix_class_labels(image, aux["mix_lam"])
        return out + class_weight * loss(logits=logits, labels=image)

    return term

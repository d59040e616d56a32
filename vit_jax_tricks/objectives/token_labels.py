"""A term that trains a dense head on token labels."""

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Term, one_of, output, target, within


def token_labels(
    *,
    name: str = "softmax",
    class_weight: Number = 1.0,
    dense_weight: Number = 1.0,
    correct: bool = False,
) -> Term:
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

    def term(*, logits, aux, labels, targets=None):
        dense = output(aux, "logits_aux", "token_labels")
        each = target(targets, "token_labels", "token_labels")
        if each.shape != dense.shape:
            raise UserError(
                f"{path}: the labels are {each.shape}, the dense "
                f"head's logits {dense.shape}; make labels of the model's grid."
            )
        image = None
        if class_weight:
            image = target(targets, "class_labels", "token_labels")
        if image is not None and correct:
            image = losses.corrected_class_labels(
                class_labels=image, true_labels=labels
            )
        if image is not None and "mix_lam" in aux:
            image = losses.mix_class_labels(image, aux["mix_lam"])
        return losses.token_label_cross_entropy(
            logits=logits,
            dense_logits=dense,
            class_labels=image,
            token_labels=each,
            class_weight=class_weight,
            dense_weight=dense_weight,
            minus_entropy=name == "kl",
        )

    return term

"""A term that holds the share of tokens that a token-dropping model keeps."""

from collections.abc import Sequence

from vit_jax_tricks import losses
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Term, output


def keep_ratio(*, ratios: Sequence[Number], per_batch: bool = False) -> Term:
    """A term: `losses.keep_ratio` of aux["keep"] [s, b, n].

    DynamicViT gives it weight 2.

    Raises: UserError for invalid ratios, or a model without this output.
    """

    def term(*, logits, aux, labels, targets=None):
        keep = output(aux, "keep", "keep_ratio")
        return losses.keep_ratio(keep=keep, ratios=ratios, per_batch=per_batch)

    return term

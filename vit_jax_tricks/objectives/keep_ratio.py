"""A term that holds the share of tokens that a token-dropping model keeps."""

from collections.abc import Sequence

from vit_jax_tricks import losses
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Targets, output
from vit_jax_tricks.typing import Array, Float


def keep_ratio(*, ratios: Sequence[Number], per_batch: bool = False):
    """A term: `losses.keep_ratio` of aux["keep"] [s, b, n].

    DynamicViT gives it weight 2.

    Raises: UserError for invalid ratios, or a model without this output.
    """

    def term(
        *,
        logits: Float[Array, "b k"],
        aux: dict,
        labels: Float[Array, "b k"],
        targets: Targets = None,
    ) -> Float[Array, "b"]:
        keep = output(aux, "keep", "keep_ratio")
        return losses.keep_ratio(keep=keep, ratios=ratios, per_batch=per_batch)

    return term

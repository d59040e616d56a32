"""A term that holds the share of kept tokens of a model that drops tokens."""

from collections.abc import Sequence

from vit_jax_tricks import losses
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Targets, output
from vit_jax_tricks.typing import Array, Float


def keep_ratio(*, ratios: Sequence[Number], per_batch: bool = False):
    """A term: `losses.keep_ratio` of aux["keep"] [s, b, n]; DynamicViT weighs it 2.

    Raises: UserError for wrong ratios, or a model without such an output.
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

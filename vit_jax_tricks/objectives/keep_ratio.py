"""A term that holds the share of tokens that a token-dropping model keeps."""

import dataclasses
from collections.abc import Sequence

from vit_jax_tricks import losses
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class KeepRatio:
    """A term: `losses.keep_ratio` of the model's output `keep` [s, b, n].

    DynamicViT gives it weight 2.

    Raises: UserError for invalid ratios.
    """

    ratios: Sequence[Number]
    per_batch: bool = False

    def __call__(self, *, keep: Float[Array, "s b n"]) -> Float[Array, "b"]:
        return losses.keep_ratio(
            keep=keep, ratios=self.ratios, per_batch=self.per_batch
        )

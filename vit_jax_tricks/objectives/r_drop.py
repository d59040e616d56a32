"""A term that makes two passes with different dropout agree."""

import dataclasses

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.term import Forward, LabelLoss, within
from vit_jax_tricks.typing import Array, Float, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class RDrop:
    """A term: the label loss of a second pass, and the distance of its predictions.

    label_loss(second) + alpha 1/2 [KL(p | q) + KL(q | p)], where p and q are the class
    head's predictions in two passes of the same images with different dropout. The term
    `classification` is the label loss of the first pass. With weights 1 and 1 the sum
    is the paper's loss, with 0.5 and 0.5 half of it.

    Source: Liang et al., 2021, arXiv:2106.14448.

    Attributes:
      alpha: weight of the divergence.

    Raises:
      UserError: a negative weight, or a model that mixes tokens.
    """

    alpha: Number

    def __post_init__(self) -> None:
        within("config.loss.r_drop", "alpha", self.alpha)

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        key: PRNGKeyArray,
        forward: Forward,
        label_loss: LabelLoss,
        mix_lam: Float[Array, ""] | None = None,
    ) -> Float[Array, "b"]:
        if mix_lam is not None:
            raise UserError(
                "config.loss.r_drop compares two passes of the same images, and "
                "MixToken mixes others in each; set config.model.mix_token=False "
                "(VOLO: use_mix_token=False)."
            )
        second, aux = forward(None, key)
        apart = losses.symmetric_kl(logits=logits, other_logits=second)
        return label_loss(second, aux) + self.alpha * apart

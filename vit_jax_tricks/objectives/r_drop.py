"""A term that makes two forward passes with different dropout agree."""

from vit_jax_tricks import losses
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.objectives.term import Term


def r_drop() -> Term:
    """A term: `losses.symmetric_kl` of two passes that drop different parts.

    The second pass takes the same images and draws its own dropout, stochastic depth
    and token dropout. The original adds the label losses of both passes and this term
    with weight alpha. With the label loss of one pass, weight alpha / 2 has the same
    expected gradient, up to a factor of 2.

    Raises: UserError in the step for a model that mixes tokens, since each pass mixes
      others.

    Source: Liang et al., 2021 (R-Drop), arXiv:2106.14448.
    """

    def term(*, logits, key, forward, mix_lam=None):
        if mix_lam is not None:
            raise UserError(
                "config.loss.r_drop compares two passes of the same images, and this "
                "model mixes tokens in each; set config.model.mix_token=False, or "
                "use_mix_token=False in VOLO."
            )
        other, _ = forward(key)
        return losses.symmetric_kl(logits=logits, other_logits=other)

    return term

"""Class logits of an image and of each of its places, from any model.

A dense head gives them directly (LV-ViT, VOLO). Other models classify one pooled
feature; their classifier is applied at each place instead, which is exact if the
feature is the mean over the places, and an approximation otherwise.
"""

from typing import Any

from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.typing import Array, Float, Params


def token_logits(
    model: Any, variables: Params, images: Float[Array, "b h w c"], form: TokenHead
) -> tuple[Float[Array, "b k"], Float[Array, "b p q k"]]:
    """The logits of images, as in evaluation, and of each of their places.

    Args:
      images: normalised images.
      form: the form of the model's, `model.token_head()`.
    """
    logits, aux = model.apply(variables, images, train=False)
    dense = model.token_logits(variables["params"], aux)
    return logits, dense.reshape(len(images), *form.grid, -1)

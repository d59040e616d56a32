"""Random brightness, contrast, saturation and hue, in random order."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.operations import apply_operations, code
from vit_jax_tricks.augment.pixels import from_uint8, to_uint8
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Float, Int, Integer, Num, Pixels, PRNGKeyArray


def draw_color_jitter(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    strengths: Mapping[str, float],
    prob: float,
) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """Draws the operations (see OPERATIONS) and amounts of `color_jitter`, in order."""
    codes = jnp.asarray([code(name) for name in strengths], jnp.int32)
    low, high = (
        jnp.asarray(
            [
                sign * x if name == "hue" else max(0.0, 1 + sign * x)
                for name, x in strengths.items()
            ],
            jnp.float32,
        )
        for sign in (-1, 1)
    )

    def one(k: PRNGKeyArray) -> tuple[Array, Array]:
        order_key, amount_key, apply_key = jax.random.split(k, 3)
        order = jax.random.permutation(order_key, len(strengths))
        amount = jax.random.uniform(amount_key, low.shape, jnp.float32, low, high)
        applied = jax.random.bernoulli(apply_key, prob)
        return jnp.where(applied, codes[order], 0), amount[order]

    return jax.vmap(one)(example_keys(key, index))


@checked
def color_jitter(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    prob: float = 0.8,
) -> Num[Array, "b h w c"]:
    """With probability `prob`, applies four colour adjustments in a random order.

    Brightness, contrast and saturation are scaled by factors uniform in max(0, 1 -
    x)..1 + x; the hue is turned by a fraction of the circle uniform in -hue..hue. A
    strength of 0 leaves an adjustment out. Each image's draw depends only on (key, its
    index). Floats in [0, 1] are rounded to 256 grey levels, and no gradient passes.

    Raises: UserError for a negative strength, a hue above 1/2 or an invalid
      probability.
    Equal in distribution to torchvision's ColorJitter on Pillow images, in RandomApply.
    """
    strengths = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    for name, value in strengths.items():
        if value < 0 or (name == "hue" and value > 0.5):
            most = "0 to 0.5" if name == "hue" else "0 or more"
            raise UserError(f"color_jitter: {name}={value}, expected {most}.")
    if not 0 <= prob <= 1:
        raise UserError(f"color_jitter: prob={prob} is a probability: give 0 to 1.")
    strengths = {name: value for name, value in strengths.items() if value}
    if not strengths or not prob:
        return images
    op, amount = draw_color_jitter(key, index, strengths, prob)
    levels = apply_operations(to_uint8(images), op, amount, among=tuple(strengths))
    return from_uint8(levels, images)

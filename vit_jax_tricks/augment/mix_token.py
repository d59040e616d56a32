"""MixToken: CutMix on the map of patch tokens, inside the model.

The partner of image i is image b-1-i (the reversed batch), and one box serves the whole
batch.

Source: Jiang et al., 2021 (LV-ViT), arXiv:2104.10858.
"""

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.mix_draw import outside_box
from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


@checked
def mix_token_box(
    lam: Float[Array, ""], centre: Int[Array, "2"], size: tuple[int, int]
) -> Int[Array, "4"]:
    """Box (y0, y1, x0, x1) of tokens about a centre, clipped to the map.

    It reaches floor(side sqrt(1 - lam)) // 2 tokens in each direction. Unclipped sides
    are therefore even, and a small box is empty. Equivalent to TokenLabeling's
    `rand_bbox` for a given centre (tested).
    """
    side = jnp.asarray(size)
    cut = jnp.floor(side.astype(lam.dtype) * jnp.sqrt(1.0 - lam)).astype(side.dtype)
    centre, half = centre.astype(side.dtype), cut // 2
    edges = jnp.stack([centre - half, centre + half], axis=1)
    return jnp.clip(edges, 0, side[:, None]).reshape(4)


@checked
def random_box(
    key: PRNGKeyArray, size: tuple[int, int], *, alpha: float = 1.0
) -> Int[Array, "4"]:
    """`mix_token_box` for lam ~ Beta(alpha, alpha) and a uniform centre."""
    lam_key, centre_key = jax.random.split(key)
    lam = jax.random.beta(lam_key, alpha, alpha)
    centre = jax.random.randint(centre_key, (2,), 0, jnp.asarray(size))
    return mix_token_box(lam, centre, size)


@checked
def mix_tokens(
    x: Float[Array, "b h w d"], box: Int[Array, "4"]
) -> tuple[Float[Array, "b h w d"], Float[Array, ""]]:
    """Pastes the box of the reversed batch into each map.

    Returns the maps, and the share of a map that is its own. Applying the same box
    twice restores the maps, which is how dense outputs are un-mixed.
    """
    _, h, w, _ = x.shape
    outside, share = outside_box(box, (h, w))
    return jnp.where(outside[None, :, :, None] > 0, x, x[::-1]), share

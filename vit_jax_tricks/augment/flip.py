"""Random left-right flip."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


def random_flip(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    index: Int[Array, "b"],
    *,
    prob: float = 0.5,
) -> Float[Array, "b h w c"]:
    """Mirrors each image left-right with probability `prob`.

    An image's draw depends on (key, its index) alone.
    """
    keys = example_keys(key, index)
    flipped = jax.vmap(lambda k: jax.random.bernoulli(k, prob))(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)

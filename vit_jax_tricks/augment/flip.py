"""Random left-right flip."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Bool, Integer, Num, PRNGKeyArray


@checked
def random_flips(
    key: PRNGKeyArray, index: Integer[Array, "b"], *, prob: float = 0.5
) -> Bool[Array, "b"]:
    """Draws which images `random_flip` flips."""
    keys = example_keys(key, index)
    return jax.vmap(lambda k: jax.random.bernoulli(k, prob))(keys)


@checked
def random_flip(
    key: PRNGKeyArray,
    images: Num[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    prob: float = 0.5,
) -> Num[Array, "b h w c"]:
    """Flips each image left-right with probability `prob`.

    Each image's draw depends only on (key, its index).
    """
    flipped = random_flips(key, index, prob=prob)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)

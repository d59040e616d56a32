"""Runs a function on only those images of a batch that need it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Bool, Num


CHUNK = 8  # images at a time, at most: a sixteenth of the batch


def apply_where(
    needed: Bool[Array, "b"],
    fn: Callable[..., Array],
    images: Num[Array, "b ..."],
    *parameters: Num[Array, "b ..."],
) -> Num[Array, "b ..."]:
    """fn(images, *parameters) where `needed`; the other images are unchanged.

    `fn` maps a few images and their parameters to as many images of the same shape and
    dtype, each independently. It runs on chunks of the needed images until none is
    left, so the cost follows their number although no shape depends on it. The last
    chunk may be padded with results that are discarded. There is no reverse-mode
    gradient.

    On a sharded batch, call it inside `jax.shard_map`, so that each device selects
    among its own images.
    """
    b = images.shape[0]
    chunk = max(1, min(CHUNK, b // 16))
    order = jnp.argsort(~needed, stable=True).astype(jnp.int32)
    count = jnp.sum(needed, dtype=jnp.int32)
    place = jnp.arange(b + chunk, dtype=jnp.int32)
    order = jnp.where(place < count, jnp.pad(order, (0, chunk)), b)

    def body(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, images = carry
        at = jax.lax.dynamic_slice(order, (start,), (chunk,))
        few = (jnp.take(x, at, axis=0, mode="clip") for x in (images, *parameters))
        return start + chunk, images.at[at].set(fn(*few), mode="drop")

    carry = (jnp.zeros((), jnp.int32), jnp.asarray(images))
    return jax.lax.while_loop(lambda carry: carry[0] < count, body, carry)[1]

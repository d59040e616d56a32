"""Randomness by name and step, never by split chains.

A stream is a pure function of (seed, name, step, example), so a resumed run draws what
the uninterrupted run would have drawn, on any mesh.
"""

import zlib

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Int, Integer, PRNGKeyArray


@checked
def fold_in_str(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """Derives the key of a named stream: fold_in(key, crc32(name))."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


@checked
def step_key(
    key: PRNGKeyArray, name: str, step: Integer[Array, ""] | int
) -> PRNGKeyArray:
    """The key of the stream `name` at `step`."""
    return jax.random.fold_in(fold_in_str(key, name), step)


@checked
def example_keys(key: PRNGKeyArray, index: Integer[Array, "b"]) -> jax.Array:
    """One key for each example, [b], by its index in the data set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


@checked
def uniform_below(
    draws: Float[Array, "*s"], count: Int[Array, "*s"]
) -> Int[jax.Array, "*s"]:
    """Converts uniform numbers in [0, 1) to integers 0 to `count` - 1.

    `count` is at most 2^20; the bias is below count / 2^23. Cheap to compile, unlike
    jax.random.randint.
    """
    return jnp.floor(draws * count.astype(draws.dtype)).astype(count.dtype)

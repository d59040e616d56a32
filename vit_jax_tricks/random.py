"""Randomness by name and step, never by split chains.

A stream is a pure function of (seed, name, step, example), so a resumed run draws
what the uninterrupted run would have drawn, on any mesh.
"""

import zlib

import jax

from vit_jax_tricks.typing import Array, Int, PRNGKeyArray


def fold_in_str(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """Derives the key of a named stream: fold_in(key, crc32(name))."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def step_key(key: PRNGKeyArray, name: str, step: Int[Array, ""] | int) -> PRNGKeyArray:
    """The key of stream `name` at `step`."""
    return jax.random.fold_in(fold_in_str(key, name), step)


def example_keys(key: PRNGKeyArray, index: Int[Array, "b"]) -> jax.Array:
    """One key for each example, [b], by its index in the data set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)

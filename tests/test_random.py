"""Randomness by name, step and example."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.random import example_keys, fold_in_str, step_key


def bits(key):
    return jax.random.key_data(key).tolist()


def test_streams_differ_by_name_and_step_and_repeat():
    key = jax.random.key(0)
    assert bits(step_key(key, "mix", 3)) == bits(step_key(key, "mix", jnp.int32(3)))
    draws = [bits(step_key(key, n, s)) for n in ("mix", "drop") for s in range(3)]
    assert len({tuple(d) for d in draws}) == 6
    assert bits(fold_in_str(key, "mix")) == bits(fold_in_str(key, "mix"))


def test_an_example_draws_the_same_wherever_it_is_in_the_batch():
    key = jax.random.key(1)
    keys = bits(example_keys(key, jnp.asarray([5, 7, 9])))
    assert keys == [bits(jax.random.fold_in(key, i)) for i in (5, 7, 9)]
    assert bits(example_keys(key, jnp.asarray([9, 5]))) == [keys[2], keys[0]]

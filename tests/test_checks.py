"""The decorator that checks arrays: letters, forms, keys, and no jaxtyping."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import augment
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys, fold_in_str, step_key
from vit_jax_tricks.typing import Array, Bool, Float, Int, Key, PRNGKeyArray


class Pair(NamedTuple):
    low: Float[Array, "#b"]
    high: Float[Array, "#b"]


@checked
def many(
    x: Float[Array, "*s d"],
    y: Float[Array, "#b d"] | None = None,
    *,
    scale: Float[Array, ""] | float = 1.0,
    mask: Bool[Array, "*s"] | None = None,
    each: dict[str, Int[Array, "d e"]] | None = None,
    pair: Pair | None = None,
):
    return scale


X = jnp.zeros((2, 3, 5))


def test_letters_bind_over_all_arguments():
    many(X, X[0, :1], mask=X[..., 0] > 0, scale=2)
    many(X[0, 0], np.zeros((7, 5)), mask=jnp.bool_(True), scale=jnp.float32(1))
    tables = {"one": jnp.zeros((5, 2), int), "other": np.zeros((5, 3), int)}
    many(X, each=tables, pair=Pair(X[0, :, 0], X[0, :1, 0]))
    for message, arguments in {
        r"y is float32\[3, 4\]; expected float \[#b, d\] = \[#b, 5\], as x\.": {
            "y": X[0, :, :4]
        },
        r"mask is bool\[2\]; expected bool \[\*s\] = \[2, 3\], as x\.": {
            "mask": X[:, 0, 0] > 0
        },
        r"scale is float32\[2\]; expected float \[\] or a number\.": {
            "scale": X[:, 0, 0]
        },
        r'each\["b"\] is int32\[4, 2\]; expected int \[d, e\] = \[5, e\], as x': {
            "each": {"a": jnp.zeros((5, 2), int), "b": jnp.zeros((4, 2), int)}
        },
        r"pair.high is float32\[2\]; expected float \[#b\] = \[3\], as pair.low": {
            "pair": Pair(X[0, :, 0], X[:, 0, 0])
        },
        r"x is float32\[\]; expected float \[\*s, d\]": {"x": X[0, 0, 0]},
        r"y is a dict; expected float": {"y": {}},
    }.items():
        with pytest.raises(UserError, match=f"many: {message}"):
            many(**{"x": X} | arguments)


def test_shapes_without_numbers():
    spec = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, 4), jnp.bool_)
    with pytest.raises(UserError, match=r"bool\[2, 4\]"):
        jax.eval_shape(lambda x, m: many(x, mask=m), spec, mask)
    with pytest.raises(UserError, match=r"bool\[4\]"):
        jax.vmap(lambda x, m: many(x, mask=m))(X, jnp.zeros((2, 4), bool))
    with pytest.raises(UserError, match=r"bool\[4\]"):
        jax.grad(lambda x: many(x, mask=jnp.zeros(4, bool)))(X)


def test_it_adds_nothing_to_the_program():
    def plain(x):
        return augment.invert.__wrapped__(x)

    images = jnp.zeros((2, 4, 4, 3))
    checked_one, plain_one = jax.make_jaxpr(augment.invert), jax.make_jaxpr(plain)
    assert str(checked_one(images)) == str(plain_one(images))


@checked
def drawn(key: PRNGKeyArray, keys: Key[Array, "b"] | None = None):
    one = jax.random.uniform(key)
    return one if keys is None else one + jax.vmap(jax.random.uniform)(keys)[1]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_old_keys_draw_what_new_ones_do(impl):
    with jax.default_prng_impl(impl):
        old, new = jax.random.PRNGKey(3), jax.random.key(3)
        olds, news = (jax.random.split(k, 4) for k in (old, new))
        for convert in (jnp.asarray, np.asarray):
            assert drawn(convert(old)) == drawn(new)
            assert drawn(key=convert(old), keys=convert(olds)) == drawn(new, news)
        assert jax.jit(drawn)(old) == jax.jit(drawn)(new)
        many = jax.vmap(drawn)(olds)
        np.testing.assert_array_equal(many, jax.vmap(drawn)(news))
        with pytest.raises(UserError, match=r"drawn: key is uint32\[7\]"):
            drawn(jnp.zeros(7, jnp.uint32))


def test_streams_of_old_keys():
    old, new, index = jax.random.PRNGKey(3), jax.random.key(3), jnp.arange(4)
    for fn in (
        lambda key: fold_in_str(key, "mixup"),
        lambda key: step_key(key, "mixup", 7),
        lambda key: example_keys(key, index),
    ):
        assert bool((fn(old) == fn(new)).all())


DRAWN = {
    "random_erasing": {"prob": 1.0},
    "aug_mix": {},
    "random_flip": {},
    "random_pad_crop": {"pad": 2},
    "random_affine": {"degrees": 20.0},
    "random_resized_crop": {"size": (8, 8)},
    "mixup": {"labels": jnp.eye(4)},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "aug_mix" else [])
        for name in DRAWN
    ],
)
def test_operations_with_old_keys(name):
    levels = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    options = {"images": jnp.asarray(levels), **DRAWN[name]}
    if name != "mixup":
        options["index"] = jnp.arange(4)

    @jax.jit
    def run(key):
        return getattr(augment, name)(key, **options)

    one, other = (run(key) for key in (jax.random.PRNGKey(5), jax.random.key(5)))
    for got, want in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(got, want)


WITHOUT = """
import sys
sys.modules["jaxtyping"] = sys.modules["beartype"] = None
import jax, jax.numpy as jnp
from vit_jax_tricks import augment, losses
x, index, images = jnp.zeros((4, 6)), jnp.arange(4), jnp.zeros((4, 8, 8, 3))
key = jax.random.PRNGKey(0)
losses.softmax_cross_entropy(logits=x, labels=x > 0, where=index > 1)
augment.random_flip(key, images, index)
augment.affine_warp(images, x, fill=(0.1, 0.2, 0.3), interpolation=index // 2)
augment.mixup(key, images, {"image": x, "tokens": images})
for call in (
    lambda: losses.softmax_cross_entropy(logits=x, labels=index),
    lambda: losses.softmax_cross_entropy(logits=x, labels=x, where=x[:, 0]),
    lambda: augment.random_flip(key, images, index[:3]),
    lambda: augment.random_flip(x, images, index),
    lambda: augment.invert(images.astype(int)),
    lambda: augment.mixup(key, images, {"image": x[:3]}),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_it_needs_no_jaxtyping():
    command = [sys.executable, "-c", WITHOUT]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split(" is ")[0] for line in found.stdout.splitlines()] == [
        "softmax_cross_entropy: labels",
        "softmax_cross_entropy: where",
        "random_flip: index",
        "random_flip: key",
        "invert: images",
        'mixup: labels["image"]',
    ]

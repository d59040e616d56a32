"""Whole policies: their draws replayed with Pillow, and what every one must keep."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.stats
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from model_goldens import jit_once
from pillow_images import batch
from quick import sparse
from test_operations import PILLOW

from vit_jax_tricks import augment
from vit_jax_tricks.augment.operations import OPERATIONS
from vit_jax_tricks.augment.parse import parse_policy
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys


KEY = jax.random.key(5)
N = 16
INDEX = jnp.arange(100, 100 + N)
IMAGES = batch(N)
BICUBIC = PIL.Image.Resampling.BICUBIC


def replay(image, op, amount, fill):
    """One operation by Pillow, as timm calls it."""
    if op == "identity":
        return image
    if op == "solarize_add":
        table = [min(255, i + int(amount)) if i < 128 else i for i in range(256)]
        return image.point(table * 3)
    if op == "posterize" and amount < 1:
        return image.point([0] * 768)
    if op in PILLOW:
        return PILLOW[op](image, amount)
    if op == "rotate":
        return image.rotate(amount, resample=BICUBIC, fillcolor=fill)
    matrix = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount),
    }[op]
    affine = PIL.Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, BICUBIC, fillcolor=fill)


@pytest.mark.parametrize(
    ("fn", "text"),
    sparse(
        [
            pytest.param(augment.rand_augment, "rand-m9-mstd0.5-inc1"),
            pytest.param(augment.rand_augment, "rand-n3-m7-p1"),
            pytest.param(augment.auto_augment, "original"),
            pytest.param(augment.auto_augment, "cifar10"),
        ],
        every=4,
    ),
)
def test_pillow_does_the_same_with_the_same_draws(fn, text):
    policy = parse_policy(text)
    images, index = batch(64), jnp.arange(64)
    got = jax.jit(functools.partial(fn, policy=text))(KEY, images, index)
    keys = example_keys(KEY, index)
    op, amount = jax.jit(lambda k: augment.draw(policy, k, images.shape[1:3]))(keys)
    warped, away = 0, []
    for i in range(64):
        image = PIL.Image.fromarray(np.asarray(images[i]))
        names = [OPERATIONS[o] for o in np.asarray(op[i])]
        for name, value in zip(names, np.asarray(amount[i]), strict=True):
            image = replay(image, name, float(value), (124, 116, 104))
        difference = np.abs(np.asarray(got[i]).astype(int) - np.asarray(image))
        if any(name in names for name in ("rotate", "shear_x", "shear_y")):
            warped += 1  # in float32, by 1, before other operations
            away.append(difference)
        else:
            assert difference.max() == 0, (names, difference.max())
    assert 0 < warped < 64
    assert np.mean(np.array(away) > 1) < 1e-3


POLICIES = {
    "rand_augment": functools.partial(augment.rand_augment, interpolation="random"),
    "aug_mix": functools.partial(augment.aug_mix, policy="augmix-m3-w2-d1"),
    "color_jitter": augment.color_jitter,
}
each_policy = pytest.mark.parametrize("fn", POLICIES.values(), ids=POLICIES)


@pytest.mark.slow
@each_policy
def test_draws_depend_on_key_and_index_alone(fn):
    """In any order, on one device or eight, compiled once."""
    chex.clear_trace_counter()
    jitted = jit_once(chex.assert_max_traces(lambda *args: fn(*args), n=1))
    out = jitted(KEY, IMAGES, INDEX)
    assert out.dtype == jnp.uint8
    changed = np.any(np.asarray(out != IMAGES), axis=(1, 2, 3))
    assert changed.sum() >= N // 3
    order = np.random.default_rng(1).permutation(N)
    shuffled = jitted(KEY, IMAGES[order], INDEX[order])
    np.testing.assert_array_equal(shuffled, out[order])
    assert not np.array_equal(jitted(jax.random.key(6), IMAGES, INDEX), out)

    mesh = Mesh(jax.devices(), "data")
    at = NamedSharding(mesh, PartitionSpec("data"))
    spec = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data"))
    each = jax.shard_map(
        fn, mesh=mesh, in_specs=spec, out_specs=spec[1], check_vma=False
    )
    images, index = jax.device_put((IMAGES, INDEX), at)
    program = jit_once(each).lower(KEY, images, index).compile()
    np.testing.assert_array_equal(program(KEY, images, index), out)
    assert "all-gather" not in program.as_text()


@pytest.mark.slow
def test_eager_and_mapped_keys():
    images, index = IMAGES[:4], INDEX[:4]
    fn = functools.partial(augment.color_jitter, contrast=0.0, hue=0.0)
    want = jit_once(fn)(KEY, images, index)
    np.testing.assert_array_equal(fn(KEY, images, index), want)
    keys = jnp.stack([KEY, jax.random.key(1)])
    mapped = jit_once(jax.vmap(fn, (0, None, None)))(keys, images, index)
    np.testing.assert_array_equal(mapped[0], want)


@pytest.mark.slow
def test_types_and_gradients():
    images, index = IMAGES[:4], INDEX[:4]
    want = jit_once(augment.rand_augment)(KEY, images, index)

    def both(x):
        out, pull = jax.vjp(lambda x: augment.rand_augment(KEY, x, index), x)
        return out, pull(jnp.ones_like(out))[0]

    out, grad = jit_once(both)(images.astype(jnp.bfloat16) / 255)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32) * 255, want, atol=0.51)
    assert not np.any(np.asarray(grad))  # grey levels pass none


def test_grey_images():
    grey = IMAGES[..., :1]
    out = jit_once(augment.rand_augment)(KEY, grey, INDEX)
    assert out.shape == grey.shape
    assert bool(jnp.any(out != grey))


def test_aug_mix_blends_its_chains():
    """With chains of one operation, each image is on a segment to their mean."""
    flat = jnp.full((2000, 6, 5, 3), 255, jnp.uint8)
    text = "augmix-m0-w2-d1"  # level 0: inverted nothing, all operations neutral
    out = jit_once(functools.partial(augment.aug_mix, policy=text))(
        KEY, flat, jnp.arange(2000)
    )
    # posterize to 4 bits leaves 240; everything else leaves 255
    assert int(out.min()) >= 239
    assert int(out.max()) == 255
    assert len(np.unique(out)) > 2
    # One chain has more than 0.6 in 1 + 0.6 (log 0.6 - 1) of the 24 / 169 with one, and
    # both have in 0.4 of the 1 / 169 with two; were weights halves, the latter alone.
    far = int((out.min((1, 2, 3)) <= 255 - 9).sum())
    assert 15 < far < 55  # of 31 that are expected


def test_three_augment_has_three_thirds():
    """Grey images are the desaturated ones, whatever follows."""
    n = 300
    out = np.asarray(
        jit_once(augment.three_augment)(
            KEY, jnp.tile(batch(4), (75, 1, 1, 1)), jnp.arange(n)
        )
    ).astype(int)
    grey = np.abs(out - out[..., :1]).max(axis=(1, 2, 3)) <= 1
    assert scipy.stats.binomtest(int(grey.sum()), n, 1 / 3).pvalue > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hue=0.6), "hue=0.6, expected 0 to 0.5"),
        (dict(contrast=-0.1), "contrast=-0.1"),
        (dict(prob=1.5), "prob=1.5"),
    ],
)
def test_mistakes_in_color_jitter(options, message):
    with pytest.raises(UserError, match=message):
        augment.color_jitter(KEY, IMAGES, INDEX, **options)


def test_jitter_of_nothing_changes_nothing():
    off = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    np.testing.assert_array_equal(
        augment.color_jitter(KEY, IMAGES, INDEX, **off), IMAGES
    )

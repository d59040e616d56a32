"""The stack of a config: order, streams, switches, devices and gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from model_goldens import jit_once
from pillow_images import batch

from configs import common
from vit_jax_tricks import augment
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.sharding import batch_sharding, make_mesh


KEY = jax.random.key(8)
MEAN = (0.485, 0.456, 0.406)
N = 16
IMAGES, INDEX = batch(N, 24, 24), jnp.arange(N)
DEIT = dict(
    flip=True,
    auto_augment="rand-m9-mstd0.5-inc1",
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
)
EVERYTHING = DEIT | dict(
    crop="random_or_center",
    crop_scale=(0.2, 1.0),
    color_jitter=0.4,
    hue=0.1,
    pad=2,
    degrees=10.0,
    erasing=0.5,
    erasing_count=2,
)


def make(**changes):
    return augment.from_config(mean=MEAN, **dict(common.get_config().augment) | changes)


def test_off_changes_nothing():
    stack = make()
    out, _ = stack.augment(KEY, IMAGES, INDEX)
    np.testing.assert_allclose(out, np.asarray(IMAGES, np.float32) / 255, atol=1e-7)
    labels = jnp.eye(N)
    assert stack.erase(KEY, out, INDEX) is out
    assert stack.mix(KEY, out, labels)[0] is out
    assert not stack.mix_first


def test_it_is_the_functions_in_order():
    stack = make(**DEIT)
    got, _ = jit_once(stack.augment)(KEY, IMAGES, INDEX)

    def by_hand(key, images, index):
        images = augment.random_flip(fold_in_str(key, "flip"), images, index)
        images = augment.rand_augment(
            fold_in_str(key, "policy"), images, index, fill=(124, 116, 104)
        )
        return images.astype(jnp.float32) / 255

    want = jit_once(by_hand)(KEY, IMAGES, INDEX)
    np.testing.assert_array_equal(got, want)
    erased = jit_once(stack.erase)(KEY, got, INDEX)
    boxes = np.any(np.asarray(erased != got), axis=(1, 2, 3))
    assert 0 < boxes.sum() < N
    values = np.asarray(erased)[np.asarray(erased != got)]
    assert values.min() < -1  # noise for normalised images
    assert values.max() > 1.5


def test_each_stream_is_its_own():
    """With jitter, the crop and the flip are the same as without."""
    geometry = dict(crop="random_resized", flip=True, interpolation="nearest")
    one, _ = jit_once(make(**geometry).augment)(KEY, IMAGES, INDEX)
    grey, _ = jit_once(make(**geometry, color_jitter=0.4).augment)(KEY, IMAGES, INDEX)
    bright = np.asarray(grey).mean(-1)
    for a, b in zip(np.asarray(one).mean(-1), bright, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(auto_augment="augmix-m3-w2-d1"),
        dict(auto_augment="3a", color_jitter=0.3, jitter_prob=1.0),
        dict(crop="simple"),
        dict(auto_augment="trivial", interpolation="random"),
    ],
    ids=str,
)
def test_every_kind_gives_images(changes):
    out, _ = jit_once(make(**changes).augment)(KEY, IMAGES, INDEX)
    assert out.shape == IMAGES.shape
    assert out.dtype == jnp.float32
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert np.mean(np.asarray(out) != np.asarray(IMAGES, np.float32) / 255) > 0.2


def pipeline(stack):
    """Augment, normalise and erase, as the training step does."""

    def run(key, images, index):
        images, _ = stack.augment(fold_in_str(key, "augment"), images, index)
        images = (images - 0.5) / 0.25
        return stack.erase(fold_in_str(key, "erase"), images, index)

    return run


@pytest.mark.slow
def test_eight_devices_make_the_same_images():
    """Without an exchange between them, and with one program for every key."""
    run = pipeline(make(**EVERYTHING))
    chex.clear_trace_counter()
    alone = jit_once(chex.assert_max_traces(run, n=1))
    one = alone(KEY, IMAGES, INDEX)
    alone(jax.random.key(1), IMAGES, INDEX)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    at = batch_sharding(mesh)
    with jax.set_mesh(mesh):
        images, index = jax.device_put((IMAGES, INDEX), at)
        program = jit_once(run, out_shardings=at).lower(KEY, images, index).compile()
        eight = program(KEY, images, index)
    assert eight.sharding.spec == PartitionSpec(("data", "fsdp"))
    np.testing.assert_allclose(eight, one, atol=2e-5)
    for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert exchange not in program.as_text()


@pytest.mark.slow
def test_gradients():
    """They pass crop, flip, warp, erasing and mixing, and stop at grey levels."""
    x, labels = IMAGES[:4].astype(jnp.float32) / 255, jnp.eye(4)
    passing = EVERYTHING | dict(auto_augment="none", color_jitter=0.0, hue=0.0)
    for changes, passes in ((passing, True), (EVERYTHING, False)):
        stack = make(**changes)

        def loss(x, stack=stack):
            y = pipeline(stack)(KEY, x, INDEX[:4])
            y, mixed = stack.mix(KEY, y, labels)
            return (jnp.sin(y).sum(axis=(1, 2, 3)) * mixed.max(-1)).sum()

        grad = np.asarray(jit_once(jax.grad(loss))(x))
        assert np.isfinite(grad).all()
        assert np.any(grad) == passes


def test_bfloat16_images():
    x = IMAGES.astype(jnp.bfloat16) / 255
    stack = make(**EVERYTHING)
    out = jax.eval_shape(pipeline(stack), KEY, x, INDEX)
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(crop="random_resize"), 'Did you mean "random_resized"'),
        (dict(auto_augment="rand-m9-mstd"), "needs a number"),
        (dict(auto_augment="augmix-q"), '"q" is unknown'),
        (dict(erasing_mode="noise"), "Valid: const, pixel, rand"),
        (dict(mix_mode="batches"), 'Did you mean "batch"'),
        (dict(interpolation="cubic"), 'Did you mean "bicubic"'),
        (dict(erasing=1.5), "erasing=1.5: out of range"),
        (dict(erasing_count=0), "erasing_count=0"),
        (dict(hue=0.7), "hue=0.7"),
        (dict(crop_scale=(0.5, 0.2)), "crop_scale"),
        (dict(crop_scale=(0.5, 2.0)), "crop_scale"),
    ],
    ids=str,
)
def test_mistakes(changes, message):
    with pytest.raises(UserError) as caught:
        make(**changes)
    assert message in str(caught.value)


def test_square_crops_need_squares():
    stack = make(crop="simple")
    with pytest.raises(UserError, match="needs squares, not 24x20"):
        jax.eval_shape(stack.augment, KEY, batch(2, 24, 20), INDEX[:2])


@pytest.mark.slow
def test_temporary_memory_of_deits_stack():
    """256 images of 224 x 224 need 1.5 GiB at most beside their arguments."""
    stack = make(**DEIT)

    @functools.partial(jax.jit, donate_argnums=1)
    def run(key, images, labels, index):
        images = pipeline(stack)(key, images, index)
        return stack.mix(fold_in_str(key, "mix"), images, labels)

    shapes = [
        jax.ShapeDtypeStruct((256, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((256, 1000), jnp.float32),
        jax.ShapeDtypeStruct((256,), jnp.int32),
    ]
    analysis = run.lower(KEY, *shapes).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 1.5 * 2**30

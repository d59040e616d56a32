"""Laws of flip, crop and affine; draws of all operations by (key, index), any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks.augment import (
    bilinear_sample,
    random_affine,
    random_affine_matrix,
    random_erasing,
    random_flip,
    random_or_center_crop,
    random_pad_crop,
    random_resized_crop,
    simple_random_crop,
)
from vit_jax_tricks.errors import UserError


KEY = jax.random.key(3)
INDEX = jnp.arange(100, 116)
IMAGES = jnp.asarray(np.random.default_rng(0).random((16, 9, 11, 3)), jnp.float32)

AFFINE = functools.partial(
    random_affine, degrees=40.0, translate=0.2, scale=(0.7, 1.3), shear=20.0
)


def images_of(crop, **options):
    """The crop without its geometry."""

    def op(key, images, index):
        return crop(key, images, index, **options)[0]

    return op


OPERATIONS = {
    "flip": random_flip,
    "crop": functools.partial(random_pad_crop, pad=3),
    "reflect": functools.partial(random_pad_crop, pad=3, mode="reflect"),
    "affine": AFFINE,
    "resized": images_of(random_resized_crop, size=(8, 10), interpolation="random"),
    "either": images_of(random_or_center_crop, size=8),
    "simple": images_of(simple_random_crop, size=8, pad=3),
    "erase": functools.partial(random_erasing, prob=0.7),
}
each_operation = pytest.mark.parametrize("op", OPERATIONS.values(), ids=OPERATIONS)


@pytest.mark.slow
@each_operation
def test_draws_depend_on_key_and_index_alone(op):
    order = np.random.default_rng(1).permutation(16)
    run = jax.jit(op)
    out = run(KEY, IMAGES, INDEX)
    shuffled = run(KEY, IMAGES[order], INDEX[order])
    np.testing.assert_array_equal(shuffled, out[order])
    alone = run(KEY, IMAGES[5:6], INDEX[5:6])
    np.testing.assert_allclose(alone[0], out[5], atol=1e-6)
    other = run(jax.random.key(4), IMAGES, INDEX)
    assert not np.array_equal(other, out)


@pytest.mark.slow
@each_operation
def test_jit_and_eight_devices_change_nothing(op):
    eager = op(KEY, IMAGES, INDEX)
    one = jax.jit(op)(KEY, IMAGES, INDEX)
    np.testing.assert_allclose(one, eager, atol=1e-6)
    sharding = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
    images, index = jax.device_put((IMAGES, INDEX), sharding)
    eight = jax.jit(op, out_shardings=sharding)(KEY, images, index)
    np.testing.assert_allclose(eight, one, rtol=0, atol=2e-6 if op is AFFINE else 0)
    text = jax.jit(op, out_shardings=sharding).lower(KEY, images, index).compile()
    assert "all-gather" not in text.as_text()


@pytest.mark.slow
@each_operation
def test_dtype_is_kept_and_keys_can_be_mapped(op):
    half = jax.eval_shape(op, KEY, IMAGES.astype(jnp.bfloat16), INDEX)
    assert half.dtype == jnp.bfloat16
    keys = jax.random.split(KEY, 3)
    run = jax.jit(op)
    mapped = jax.jit(jax.vmap(op, in_axes=(0, None, None)))(keys, IMAGES, INDEX)
    for key, out in zip(keys, mapped, strict=True):
        np.testing.assert_allclose(run(key, IMAGES, INDEX), out, atol=1e-6)


@pytest.mark.slow
@each_operation
def test_gradients_are_finite(op):
    grad = jax.jit(jax.grad(lambda x: jnp.square(op(KEY, x, INDEX)).sum()))(IMAGES)
    assert bool(jnp.isfinite(grad).all())
    assert bool(jnp.any(grad))


@pytest.mark.slow
@each_operation
def test_grey_levels_stay_grey_levels(op):
    levels = (IMAGES * 100 + 70).astype(jnp.uint8)  # no filter overshoots 0..255
    out = jax.jit(op)(KEY, levels, INDEX)
    assert out.dtype == jnp.uint8
    if op is not OPERATIONS["erase"]:  # noise about 0 has no negative levels
        want = jax.jit(op)(KEY, levels.astype(jnp.float32) / 255, INDEX) * 255
        # Cut off once, or rounded twice, the first time before a filter of sum 1.5.
        np.testing.assert_allclose(out.astype(jnp.float32), want, atol=1.3)


def test_flip_is_all_or_nothing():
    out = random_flip(KEY, IMAGES, INDEX)
    same = np.array([np.array_equal(a, b) for a, b in zip(out, IMAGES, strict=True)])
    mirrored = np.array(
        [np.array_equal(a[:, ::-1], b) for a, b in zip(out, IMAGES, strict=True)]
    )
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()
    np.testing.assert_array_equal(random_flip(KEY, IMAGES, INDEX, prob=0.0), IMAGES)
    np.testing.assert_array_equal(
        random_flip(KEY, IMAGES, INDEX, prob=1.0), IMAGES[:, :, ::-1]
    )


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_takes_every_shift_about_equally(mode):
    image = np.random.default_rng(0).random((5, 6, 1)).astype(np.float32)
    n, pad = 4500, 1
    images = jnp.broadcast_to(image, (n, 5, 6, 1))
    out = np.asarray(random_pad_crop(KEY, images, jnp.arange(n), pad=pad, mode=mode))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    counts = [
        np.all(out == padded[y : y + 5, x : x + 6], axis=(1, 2, 3)).sum()
        for y in range(3)
        for x in range(3)
    ]
    assert sum(counts) == n
    assert abs(np.array(counts) - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pad=2, mode="edge"), '"constant" or "reflect"'),
        (dict(pad=-1), "pad=-1"),
        (dict(pad=9, mode="reflect"), "pad=9 does not fit 9-pixel"),
    ],
)
def test_crop_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        random_pad_crop(KEY, IMAGES, INDEX, **options)


def hat_sample(image, y, x):
    """The definition: every pixel weighted by its two hats."""
    h, w, _ = image.shape
    wy = np.maximum(0, 1 - np.abs(y[..., None] - np.arange(h)))
    wx = np.maximum(0, 1 - np.abs(x[..., None] - np.arange(w)))
    return np.einsum("yxi,yxj,ijc->yxc", wy, wx, image)


@pytest.mark.usefixtures("x64")
def test_bilinear_sample_is_its_definition():
    rng = np.random.default_rng(2)
    image = rng.random((2, 5, 7, 3))
    y, x = rng.uniform(-3, 7, (2, 2, 6, 4)) * np.array([1, 1.3]).reshape(2, 1, 1, 1)
    y[:, 0], x[:, 1] = [-1, 4, 5, 0], [-1, 6, 7, 0]  # edges and whole pixels
    out = bilinear_sample(jnp.asarray(image), jnp.asarray(y), jnp.asarray(x))
    for i in range(2):
        np.testing.assert_allclose(out[i], hat_sample(image[i], y[i], x[i]), atol=1e-12)


def test_affine_identity_and_whole_pixel_shifts():
    np.testing.assert_allclose(random_affine(KEY, IMAGES, INDEX), IMAGES, atol=1e-6)
    n = 4000
    image = np.random.default_rng(0).random((8, 8, 1)).astype(np.float32)
    images = jnp.broadcast_to(image, (n, 8, 8, 1))
    out = np.asarray(random_affine(KEY, images, jnp.arange(n), translate=0.125))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    counts = np.zeros((3, 3))
    for y in range(3):
        for x in range(3):
            want = padded[y : y + 8, x : x + 8]
            counts[y, x] = (abs(out - want).max(axis=(1, 2, 3)) < 1e-5).sum()
    # round(U(-1, 1)) is -1, 0, 1 with probability 1/4, 1/2, 1/4
    law = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]) * n
    assert counts.sum() == n
    assert (abs(counts - law) < 5 * np.sqrt(law)).all()


def test_shifts_are_shares_of_their_own_side():
    """A quarter of 8 rows and of 40 columns."""
    index = jnp.arange(4000)
    draw = functools.partial(random_affine_matrix, size=(8, 40), translate=0.25)
    matrix = np.asarray(jax.jit(draw)(KEY, index))
    for column, most in ((5, 2), (2, 10)):
        np.testing.assert_array_equal(
            np.unique(matrix[:, column]), np.arange(-most, most + 1)
        )


def test_affine_moves_a_blob_by_its_law():
    """Scale, shear and rotation seen in the second moments of a smooth blob."""
    size, n = 33, 600
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    blob = np.exp(-(x**2 / 4 + y**2 / 16) / 2)[None, ..., None].astype(np.float32)
    images = jnp.broadcast_to(blob, (n, size, size, 1))

    def moments(**options):
        out = np.asarray(random_affine(KEY, images, jnp.arange(n), **options))[..., 0]
        mass = out.sum(axis=(1, 2))

        def mean(f):
            return (out * f).sum(axis=(1, 2)) / mass

        return mean(x * x), mean(y * y), mean(x * y), mass / blob.sum()

    xx, yy, xy, mass = moments(scale=(0.8, 1.2))
    zoom = np.sqrt(mass)
    np.testing.assert_allclose(xx, 4 * mass, rtol=0.05)
    np.testing.assert_allclose(xy, 0, atol=0.05)
    assert 0.79 < zoom.min() < 0.81
    assert 1.15 < zoom.max() < 1.21
    assert abs(zoom.mean() - 1) < 0.02

    xx, yy, xy, mass = moments(degrees=30.0)
    angle = np.rad2deg(np.arctan2(2 * xy, yy - xx) / 2)
    np.testing.assert_allclose(mass, 1, rtol=0.01)
    np.testing.assert_allclose(xx + yy, 20, rtol=0.05)
    assert abs(angle.mean()) < 3
    assert 28 < abs(angle).max() < 31

    xx, yy, xy, mass = moments(shear=20.0)
    slant = np.rad2deg(np.arctan(xy / yy))
    np.testing.assert_allclose(mass, 1, rtol=0.01)
    np.testing.assert_allclose(yy, 16, rtol=0.05)
    assert 18 < abs(slant).max() < 21


def test_affine_matrix_order_is_shear_then_rotate():
    """One image, its draw read back, against the matrix product written out."""
    key = jax.random.fold_in(KEY, INDEX[0])
    options = dict(degrees=40.0, translate=0.2, scale=(0.7, 1.3), shear=20.0)
    low = jnp.array([-40, -0.2 * 9, -0.2 * 11, 0.7, -20.0])
    high = jnp.array([40, 0.2 * 9, 0.2 * 11, 1.3, 20.0])
    a, dy, dx, s, t = np.asarray(jax.random.uniform(key, (5,), minval=low, maxval=high))
    a, t = np.deg2rad(a), np.deg2rad(t)
    rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    forward = s * rotation @ np.array([[1, -np.tan(t)], [0, 1]])
    x, y = np.meshgrid(np.arange(11.0), np.arange(9.0))
    out = np.stack([x - 5 - np.round(dx), y - 4 - np.round(dy)], axis=-1)
    inside = out @ np.linalg.inv(forward).T
    want = hat_sample(np.asarray(IMAGES[0]), inside[..., 1] + 4, inside[..., 0] + 5)
    got = random_affine(KEY, IMAGES[:1], INDEX[:1], **options)[0]
    np.testing.assert_allclose(got, want, atol=2e-5)

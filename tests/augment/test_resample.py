"""Crop and resize against Pillow: stored results, and fresh pictures and boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from goldens import load_golden

from vit_jax_tricks.augment import crop_and_resize, resample
from vit_jax_tricks.augment.resample_weights import resampling_weights
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.flops import count_flops


FILTERS = {
    name: getattr(PIL.Image.Resampling, name.upper())
    for name in ("nearest", "bilinear", "bicubic", "lanczos")
}
each_filter = pytest.mark.parametrize("kind", FILTERS)
resize = jax.jit(crop_and_resize, static_argnames=("size", "interpolation"))


def cut(picture, box):
    top, left, height, width = box
    return picture.crop((left, top, left + width, top + height))


@each_filter
def test_goldens_of_crops(kind):
    manifest, arrays = load_golden("augment/crop_resize_photo")
    boxes = manifest["boxes_top_left_h_w"]
    known = [i for i in range(len(boxes)) if f"crop{i}_to24_{kind}" in arrays]
    images = jnp.broadcast_to(arrays["input"], (len(known), 64, 64, 3))
    box = jnp.array([boxes[i] for i in known])
    out = resize(images, box, size=(24, 24), interpolation=kind)
    want = np.stack([arrays[f"crop{i}_to24_{kind}"] for i in known])
    assert out.dtype == jnp.uint8
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_goldens_of_whole_pictures(kind):
    _, arrays = load_golden("augment/crop_resize_photo")
    box = jnp.array([[0, 0, 64, 64]])
    out = resize(arrays["input"][None], box, size=(40, 40), interpolation=kind)
    np.testing.assert_array_equal(out[0], arrays[f"resize_short40_{kind}"])


def boxes_in(h, w, count, seed=0):
    rng = np.random.default_rng(seed)
    tops, lefts = rng.integers(0, h - 8, count), rng.integers(0, w - 8, count)
    heights = [rng.integers(3, h - t + 1) for t in tops]
    widths = [rng.integers(3, w - x + 1) for x in lefts]
    rows = list(zip(tops, lefts, heights, widths, strict=True))
    # The whole, and two that lose far more in height: Pillow shrinks that first.
    return np.array([(0, 0, h, w), (0, 0, h, 9), (3, 5, h - 3, 12), *rows], np.int32)


def noise(h, w):
    return np.random.default_rng(2).integers(0, 256, (h, w, 3), np.uint8)


def smooth(h, w):
    y, x = np.mgrid[:h, :w]
    waves = [
        127 + 100 * np.sin(x / 17 + c) + 60 * np.cos(y / (9 + 5 * c)) for c in range(3)
    ]
    return np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


@pytest.mark.slow
@each_filter
@pytest.mark.parametrize("size", [(24, 24), (31, 17)], ids=str)
@pytest.mark.usefixtures("x64")
def test_other_pictures_to_the_bit(kind, size):
    image = noise(93, 52)
    boxes = boxes_in(93, 52, 6)
    picture = PIL.Image.fromarray(image)
    want = [cut(picture, box).resize(size[::-1], FILTERS[kind]) for box in boxes]
    images = jnp.broadcast_to(image, (len(boxes), *image.shape))
    out = resize(images, jnp.asarray(boxes), size=size, interpolation=kind)
    np.testing.assert_array_equal(out, np.stack(want))


def assert_as_pillow(image, boxes, size, kind):
    picture = PIL.Image.fromarray(image)
    want = [cut(picture, box).resize(size[::-1], FILTERS[kind]) for box in boxes]
    images = jnp.broadcast_to(image, (len(boxes), *image.shape))
    out = resize(images, jnp.asarray(boxes), size=size, interpolation=kind)
    np.testing.assert_array_equal(out, np.stack(want))


@each_filter
@pytest.mark.parametrize("paint", [noise, smooth])
def test_pictures_and_boxes(kind, paint):
    assert_as_pillow(paint(93, 52), boxes_in(93, 52, 6), (31, 17), kind)


# Ratios with many ties, upwards, far down (sums of more than 512 pixels too), one way
# each, tall (heights first) and wide, and no change at all.
SIZES = [
    ((64, 64), (32, 32)),
    ((256, 256), (224, 224)),
    ((64, 64), (224, 224)),
    ((200, 150), (224, 224)),
    ((1100, 900), (16, 20)),
    ((1300, 40), (32, 32)),
    ((40, 700), (48, 20)),
    ((300, 20), (24, 24)),
    ((20, 300), (24, 24)),
    ((31, 33), (31, 33)),
    ((1, 50), (7, 20)),
    ((3, 2), (50, 70)),
]


@pytest.mark.slow
@each_filter
@pytest.mark.parametrize("paint", [noise, smooth])
def test_whole_pictures_of_many_sizes(kind, paint):
    for source, size in SIZES:
        assert_as_pillow(paint(*source), np.array([[0, 0, *source]]), size, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos"])
def test_many_boxes_of_a_photograph_one_by_one(kind):
    """As the stack crops on a CPU: heights first or last is then a branch."""
    image = smooth(192, 160)
    boxes = boxes_in(192, 160, 60, seed=4)

    def one(box):
        crop = functools.partial(crop_and_resize, size=(64, 64), interpolation=kind)
        return crop(jnp.asarray(image)[None], box[None])[0]

    out = jax.jit(lambda boxes: jax.lax.map(one, boxes))(jnp.asarray(boxes))
    picture = PIL.Image.fromarray(image)
    want = [cut(picture, box).resize((64, 64), FILTERS[kind]) for box in boxes]
    np.testing.assert_array_equal(out, np.stack(want))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos"])
def test_float_images_are_not_rounded(kind):
    """Pillow's float pictures, one channel at a time; overshoot is cut off here."""
    image = np.random.default_rng(3).random((30, 41, 3)).astype(np.float32)
    boxes = boxes_in(30, 41, 5)
    images = jnp.broadcast_to(image, (len(boxes), *image.shape))
    out = resize(images, jnp.asarray(boxes), size=(16, 20), interpolation=kind)
    for i, box in enumerate(boxes):
        for c in range(3):
            picture = PIL.Image.fromarray(image[..., c])
            want = np.asarray(cut(picture, box).resize((20, 16), FILTERS[kind]))
            np.testing.assert_allclose(out[i, ..., c], want.clip(0, 1), atol=2e-6)


def test_part_of_the_resized_box_with_mirrored_border():
    image = noise(40, 30)
    picture = PIL.Image.fromarray(image)
    box, resized = (3, 2, 35, 25), (21, 19)
    whole = np.asarray(cut(picture, box).resize(resized[::-1], PIL.Image.BICUBIC))
    padded = np.pad(whole, ((9, 9), (9, 9), (0, 0)), mode="reflect")
    offsets = np.array([(0, 0), (5, 6), (-4, 3), (9, -3), (-9, 13)], np.int32)
    n = len(offsets)
    out = resize(
        jnp.broadcast_to(image, (n, *image.shape)),
        jnp.array([box] * n),
        size=(12, 10),
        resized=jnp.array([resized] * n),
        offset=jnp.asarray(offsets),
    )
    for got, (y, x) in zip(out, offsets + 9, strict=True):
        np.testing.assert_array_equal(got, padded[y : y + 12, x : x + 10])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_filter_for_each_image():
    boxes = boxes_in(20, 26, 3)
    images = jnp.broadcast_to(noise(20, 26), (6, 20, 26, 3))
    kinds = jnp.array([0, 1, 2, 2, 1, 0])
    out = crop_and_resize(images, boxes, size=(9, 8), interpolation=kinds)
    for i, kind in enumerate(kinds):
        want = crop_and_resize(
            images, boxes, size=(9, 8), interpolation=list(FILTERS)[kind]
        )
        np.testing.assert_array_equal(out[i], want[i])


@each_filter
def test_weights_add_up_to_one_inside_the_box_alone(kind):
    start, length = jnp.array([0, 3, 11]), jnp.array([20, 5, 2])
    weights, _ = resampling_weights(
        start, length, size=8, source=20, interpolation=kind
    )
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    j = np.arange(20)
    for w, s, n in zip(weights, start, length, strict=True):
        assert not np.any(w[:, (j < s) | (j >= s + n)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FILTERS, "each"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_matrix_products_give_the_same(kind, dtype, monkeypatch):
    """The way of TPUs, and of what shrinks by much."""
    image = noise(93, 52)
    boxes = boxes_in(93, 52, 6)
    images = jnp.broadcast_to(image, (len(boxes), *image.shape)).astype(dtype)
    images = images / 255 if dtype == np.float32 else images
    how = jnp.arange(len(boxes)) % 3 if kind == "each" else kind
    crop = functools.partial(crop_and_resize, size=(31, 17), interpolation=how)
    gathered = crop(images, boxes)
    monkeypatch.setattr(resample, "MOST_TAPS", 0)
    products = crop(images, boxes)
    if dtype == np.float32:
        np.testing.assert_allclose(products, gathered, atol=2e-6)
        assert count_flops(crop, images, boxes).macs > 0
        return
    np.testing.assert_array_equal(products, gathered)


@pytest.mark.slow
def test_precision_types_and_gradients():
    boxes = jnp.asarray(boxes_in(20, 26, 1))
    floats = jnp.broadcast_to(noise(20, 26), (4, 20, 26, 3)).astype(jnp.float32) / 255
    crop = functools.partial(crop_and_resize, size=(10, 10))
    want = crop(floats, boxes)
    half = crop(floats.astype(jnp.bfloat16), boxes)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, atol=2 * 2**-8)
    grad = jax.grad(lambda x: jnp.square(crop(x, boxes)).sum())(floats)
    assert bool(jnp.isfinite(grad).all())
    inside = jax.grad(lambda x: crop(x, boxes)[1].sum())(floats)
    assert not bool(jnp.any(inside[1, :, 9:]))  # beyond its box


def test_mistakes():
    with pytest.raises(UserError, match='"cubic" is unknown'):
        crop_and_resize(
            jnp.zeros((1, 4, 4, 3)),
            jnp.array([[0, 0, 4, 4]]),
            size=(2, 2),
            interpolation="cubic",
        )

"""Random and central crops: stored results, Pillow's own chain, and their laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from goldens import load_golden
from scipy import stats

from vit_jax_tricks.augment import (
    random_or_center_crop,
    random_resized_box,
    random_resized_crop,
    resize_center_crop,
    simple_random_crop,
)
from vit_jax_tricks.data import decode
from vit_jax_tricks.errors import UserError


KEY = jax.random.key(5)
DRAWS = 20_000


def jitted(crop, **options):
    return jax.jit(functools.partial(crop, **options))


def differences(out, want):
    return np.abs(np.asarray(out, int) - np.asarray(want, int))


@pytest.mark.parametrize("short", [36, 37])
def test_goldens_of_evaluation(short):
    _, arrays = load_golden("augment/crop_resize_photo")
    crop = jitted(resize_center_crop, size=32, crop_pct=32 / short)
    out, geometry = crop(arrays["input"][None])
    want = arrays[f"eval_resize{short}_crop32_bicubic"]
    assert differences(out[0], want).max() <= 1
    assert (differences(out[0], want) > 0).mean() < 1e-3
    assert geometry.size == (32, 32)
    assert geometry.source == (64, 64)


@pytest.mark.parametrize("shape", [(40, 53), (61, 40)], ids=str)
def test_evaluation_of_other_pictures(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    short = int(24 / 0.875)
    long = int(short * max(shape) / min(shape))
    size = (short, long) if shape[0] < shape[1] else (long, short)
    whole = np.asarray(PIL.Image.fromarray(image).resize(size[::-1], PIL.Image.BICUBIC))
    top, left = (round((side - 24) / 2) for side in size)
    want = whole[top : top + 24, left : left + 24]
    out, _ = jitted(resize_center_crop, size=24)(image[None])
    assert differences(out[0], want).max() <= 1
    assert (differences(out[0], want) > 0).mean() < 1e-3


@pytest.mark.parametrize("shape", [(34, 47), (50, 31)], ids=str)
def test_simple_random_crop_is_resize_pad_crop(shape):
    n, size, pad = 7, 24, 4
    images = np.random.default_rng(0).integers(0, 256, (n, *shape, 3), np.uint8)
    crop = jitted(simple_random_crop, size=size, pad=pad)
    out, geometry = crop(KEY, images, jnp.arange(n))
    resized = tuple(np.asarray(geometry.resized[0]))
    assert min(resized) == size
    assert max(resized) == int(size * max(shape) / min(shape))
    for i in range(n):
        picture = PIL.Image.fromarray(images[i]).resize(
            resized[::-1], PIL.Image.BICUBIC
        )
        padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        y, x = np.asarray(geometry.offset[i]) + pad
        want = padded[y : y + size, x : x + size]
        assert differences(out[i], want).max() <= 1


def boxes(source, n=DRAWS, **options):
    draw = functools.partial(random_resized_box, source=source, **options)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, n)))


def host_boxes(source, n=DRAWS, **options):
    rng = np.random.default_rng(11)
    return np.array(
        [decode.random_resized_box(rng, *source, **options) for _ in range(n)]
    )


@pytest.mark.parametrize(
    ("source", "options"),
    [((500, 375), {}), ((64, 64), {"scale": (0.2, 1.0)}), ((40, 160), {})],
    ids=str,
)
def test_law_of_the_box(source, options):
    """Area, ratio and place against the host's draws: p > 0.001 for each."""
    h, w = source
    samples = []
    for top, left, height, width in (
        boxes(source, **options).T,
        host_boxes(source, **options).T,
    ):
        assert min(top.min(), left.min()) >= 0
        assert (top + height).max() <= h
        assert (left + width).max() <= w
        samples.append(
            {
                "area": height * width / (h * w),
                "ratio": width / height,
                "top": top / np.maximum(h - height, 1),
                "left": left / np.maximum(w - width, 1),
            }
        )
    for name in samples[0]:
        assert stats.ks_2samp(samples[0][name], samples[1][name]).pvalue > 1e-3, name


def test_place_is_uniform():
    """Each of the places that are left for a fixed size: chi-square, p > 0.001."""
    box = boxes((10, 12), scale=(0.5, 0.5), ratio=(1.0, 1.0))
    assert (box[:, 2:] == 8).all()
    counts = np.zeros((3, 5))
    np.add.at(counts, tuple(box[:, :2].T), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("source", "want"),
    [((100, 400), (0, 133, 100, 133)), ((400, 100), (133, 0, 133, 100))],
    ids=str,
)
def test_when_nothing_fits_the_middle_is_taken(source, want):
    draws = boxes(source, n=50, scale=(1.0, 1.0))
    np.testing.assert_array_equal(draws, np.broadcast_to(want, (50, 4)))


def test_the_source_may_be_data():
    """Pictures of different sizes on one canvas."""
    sources = jnp.array([[100, 80], [30, 90]])
    draw = jax.vmap(random_resized_box)(jax.random.split(KEY, 2), sources)
    for i, source in enumerate([(100, 80), (30, 90)]):
        want = random_resized_box(jax.random.split(KEY, 2)[i], source)
        np.testing.assert_array_equal(draw[i], want)


def test_choice_of_the_two_crops():
    n = 4000
    images = jnp.zeros((n, 20, 24, 1))
    crop = jitted(random_or_center_crop, size=8, prob=0.3)
    _, geometry = crop(KEY, images, jnp.arange(n))
    random = np.asarray(geometry.resized == 8).all(axis=1)
    assert stats.binomtest(int(random.sum()), n, 0.3).pvalue > 1e-3
    area = np.asarray(geometry.box[:, 2] * geometry.box[:, 3]) / (20 * 24)
    assert area[random].min() > 0.17  # 0.2, before the sides are rounded
    of_host = host_boxes((20, 24), n=4000, scale=(0.2, 1.0))
    law = of_host[:, 2] * of_host[:, 3] / (20 * 24)
    assert stats.ks_2samp(area[random], law).pvalue > 1e-3  # whatever was chosen
    np.testing.assert_array_equal(area[~random], 1)
    assert set(map(tuple, np.asarray(geometry.resized)[~random])) == {(9, 10)}
    assert set(map(tuple, np.asarray(geometry.offset)[~random])) == {(0, 1)}


def test_the_chosen_crop_is_that_crop():
    images = np.random.default_rng(0).integers(0, 256, (12, 20, 24, 3), np.uint8)
    index = jnp.arange(12)
    out, geometry = jitted(random_or_center_crop, size=8)(KEY, images, index)
    centre, _ = jitted(resize_center_crop, size=8)(images)
    crop = jitted(random_resized_crop, size=(8, 8), scale=(0.2, 1.0))
    other, drawn = crop(KEY, images, index)
    random = np.asarray(geometry.resized == 8).all(axis=1)
    assert 0 < random.sum() < 12
    np.testing.assert_array_equal(geometry.box[random], drawn.box[random])
    np.testing.assert_array_equal(
        out, np.where(random[:, None, None, None], other, centre)
    )


def test_random_interpolation_is_one_of_two():
    images = np.random.default_rng(0).random((30, 20, 24, 3)).astype(np.float32)
    out, *two = (
        jitted(random_resized_crop, size=(8, 8), interpolation=kind)(
            KEY, images, jnp.arange(30)
        )[0]
        for kind in ("random", "bilinear", "bicubic")
    )
    same = np.array(
        [
            [np.allclose(a, b, atol=1e-6) for a, b in zip(out, t, strict=True)]
            for t in two
        ]
    )
    assert same.any(axis=0).all()
    assert 5 <= (same[0] & ~same[1]).sum() <= 25


def test_place_of_the_simple_crop_is_uniform():
    n = 5000
    crop = jitted(simple_random_crop, size=6, pad=2)
    _, geometry = crop(KEY, jnp.zeros((n, 6, 7, 1)), jnp.arange(n))
    counts = np.zeros((5, 6))
    np.add.at(counts, tuple(np.asarray(geometry.offset).T + 2), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("crop", "options", "message"),
    [
        (random_resized_crop, dict(size=(4, 4), scale=(0.0, 1.0)), "scale="),
        (random_resized_crop, dict(size=(4, 4), ratio=(2.0, 1.0)), "ratio="),
        (random_or_center_crop, dict(size=4, crop_pct=1.5), "crop_pct=1.5"),
        (simple_random_crop, dict(size=4, pad=4), "pad=4"),
        (simple_random_crop, dict(size=4, pad=-1), "pad=-1"),
    ],
)
def test_mistakes(crop, options, message):
    with pytest.raises(UserError, match=message):
        crop(KEY, jnp.zeros((2, 8, 8, 3)), jnp.arange(2), **options)

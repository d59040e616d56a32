"""What sums the pixels of a picture is exact however many there are."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest

from vit_jax_tricks import augment
from vit_jax_tricks.augment.tone import mean_luma


def picture(h, w, low, high, channels=1):
    """Levels from low to high; the mean lies anywhere between whole numbers."""
    rng = np.random.default_rng((h, w))
    return rng.integers(low, high + 1, (h, w, channels), np.uint8)


# More than 2^31 / 2 / 255 pixels, upright, lying, and in one line.
SHAPES = [(2100, 2050), (2050, 2100), (1, 4_300_000), (4_300_000, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mean_grey(shape):
    image = picture(*shape, 240, 255)
    want = int(image.mean(dtype=np.float64) + 0.5)
    assert jax.jit(mean_luma)(image[None]).tolist() == [want]


def test_halves_are_rounded_up():
    image = np.full((2100, 2100, 1), 254, np.uint8)
    image[::2] = 255
    assert mean_luma(image[None]).tolist() == [255]
    image[0, 0] = 254
    assert mean_luma(image[None]).tolist() == [254]


@pytest.mark.slow
@pytest.mark.parametrize(("h", "w"), [(3000, 3100), (6000, 5000), (1, 9_000_000)])
def test_photographs_as_pillow(h, w):
    image = picture(h, w, 225, 254)
    grey = PIL.Image.fromarray(image[..., 0])
    for name, got, want in (
        (
            "contrast",
            augment.adjust_contrast(image[None], 1.5),
            PIL.ImageEnhance.Contrast(grey).enhance(1.5),
        ),
        ("equalize", augment.equalize(image[None]), PIL.ImageOps.equalize(grey)),
        (
            "auto_contrast",
            augment.auto_contrast(image[None]),
            PIL.ImageOps.autocontrast(grey),
        ),
    ):
        assert np.array_equal(got[0, ..., 0], np.asarray(want)), name


def test_a_policy_uses_the_same_mean():
    image = picture(2100, 2100, 240, 255, channels=3)
    op = jnp.array([augment.OPERATIONS.index("contrast")])
    got = augment.apply_operation(image[None], op, jnp.array([0.5]), among=["contrast"])
    want = PIL.ImageEnhance.Contrast(PIL.Image.fromarray(image)).enhance(0.5)
    np.testing.assert_array_equal(got[0], want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats(dtype):
    """Half of a picture between 0.8 and 0.9: 0.85 + (x - 0.85) / 2."""
    image = np.full((1, 3000, 3000, 1), 0.8, dtype)
    image[:, :, ::2] = 0.9
    got = augment.adjust_contrast(image, 0.5)
    want = 0.85 + (image[0, 0, :2, 0].astype(float) - 0.85) / 2
    atol = 1e-6 if dtype == "float32" else 1e-3
    np.testing.assert_allclose(got[0, 0, :2, 0], want, atol=atol)

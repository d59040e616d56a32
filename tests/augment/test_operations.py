"""The operations of the policies against Pillow, on the reference files and beyond."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageOps
import pytest
from goldens import load_golden
from model_goldens import jit_once
from pillow_images import batch, photo, unseen

from vit_jax_tricks import augment
from vit_jax_tricks.augment import levels, operations, pixels, tone
from vit_jax_tricks.errors import UserError


TIMM = levels.timm()


def once(fn, *args):
    """Eager operations compile one by one, which takes longer."""
    return jax.jit(fn)(*args)


FILES = ("pil_tone_photo", "pil_blend_photo", "pil_filter_photo")


def codes(*names):
    return jnp.asarray([operations.code(name) for name in names], jnp.int32)


@pytest.mark.parametrize("file", FILES)
def test_reference_files_bit_for_bit(file):
    """Every row at once: images of one batch, each with its own operation."""
    manifest, arrays = load_golden(f"augment/{file}")
    rows = [r for r in manifest["rows"] if "raises" not in str(r[5:])]
    ops, amounts, want = [], [], []
    for key, name, magnitude, sign, *_ in rows:
        same = [str(r[5]).split()[-1] for r in rows if r[0] == key and len(r) > 5]
        op, amount = TIMM[name]
        drawn = levels.Draw(np.float64(magnitude), float(sign), jnp.ones(1), (64, 64))
        ops.append(op)
        amounts.append(float(amount(drawn)))
        want.append(arrays[same[0] if same else key])
    images = jnp.broadcast_to(photo(), (len(rows), 64, 64, 3))
    got = augment.apply_operation(
        images, codes(*ops), jnp.asarray(amounts), among=sorted(set(ops))
    )
    for row, one, other in zip(rows, got, want, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=row[0])


PILLOW = {
    "solarize": lambda p, x: PIL.ImageOps.solarize(p, x),
    "posterize": lambda p, x: PIL.ImageOps.posterize(p, int(x)),
    "brightness": lambda p, x: PIL.ImageEnhance.Brightness(p).enhance(x),
    "contrast": lambda p, x: PIL.ImageEnhance.Contrast(p).enhance(x),
    "saturation": lambda p, x: PIL.ImageEnhance.Color(p).enhance(x),
    "sharpness": lambda p, x: PIL.ImageEnhance.Sharpness(p).enhance(x),
    "gaussian_blur": lambda p, x: p.filter(PIL.ImageFilter.GaussianBlur(x)),
    "invert": lambda p, x: PIL.ImageOps.invert(p),
    "equalize": lambda p, x: PIL.ImageOps.equalize(p),
    "auto_contrast": lambda p, x: PIL.ImageOps.autocontrast(p),
}
FACTORS = (0.0, 0.1, 0.37, 0.6, 1.0, 1.3, 1.7, 1.81, 2.8)
AMOUNTS = {
    "solarize": (0.0, 26.0, 178.5, 256.0),
    "posterize": (1.0, 3.0, 8.0),
    "gaussian_blur": (0.0, 0.1, 0.77, 1.3, 2.0),
    **dict.fromkeys(("brightness", "contrast", "saturation", "sharpness"), FACTORS),
}


@pytest.mark.slow
@pytest.mark.parametrize("op", PILLOW)
def test_pillow_on_an_unseen_image(op):
    image = unseen()
    amounts = AMOUNTS.get(op, (0.0,))
    images = jnp.broadcast_to(image, (len(amounts), *image.shape))
    got = augment.apply_operation(
        images,
        jnp.full(len(amounts), operations.code(op), jnp.int32),
        jnp.asarray(amounts),
        among=(op,),
    )
    for amount, one in zip(amounts, got, strict=True):
        want = PILLOW[op](PIL.Image.fromarray(image), amount)
        np.testing.assert_array_equal(one, want, err_msg=f"{op} {amount}")


ALONE = {
    "solarize": augment.solarize,
    "posterize": augment.posterize,
    "brightness": augment.adjust_brightness,
    "contrast": augment.adjust_contrast,
    "saturation": augment.adjust_saturation,
    "sharpness": augment.adjust_sharpness,
    "gaussian_blur": augment.gaussian_blur,
}


@pytest.mark.parametrize("op", ALONE)
def test_functions_are_the_operations(op):
    """One function an operation; grey images and grey levels as floats as well."""
    images = batch(4)
    amounts = jnp.asarray(AMOUNTS[op][-4:] if len(AMOUNTS[op]) > 3 else (2.0,) * 4)
    given = jnp.full(4, operations.code(op), jnp.int32)
    for x in (images, images[..., :1]):
        apply = functools.partial(augment.apply_operation, among=(op,))
        want = jit_once(apply)(x, given, amounts)
        got = jit_once(ALONE[op])(x, amounts)
        np.testing.assert_array_equal(got, want)
    if op in ("solarize", "posterize", "gaussian_blur"):
        floats = jit_once(ALONE[op])(images.astype(jnp.float32) / 255, amounts)
        want = np.asarray(jit_once(ALONE[op])(images, amounts), np.float32) / 255
        np.testing.assert_allclose(floats, want, atol=1e-7)


def test_edge_cases_of_tables():
    flat = jnp.full((1, 9, 7, 3), 77, jnp.uint8)
    np.testing.assert_array_equal(once(augment.equalize, flat), flat)
    np.testing.assert_array_equal(once(augment.auto_contrast, flat), flat)
    np.testing.assert_array_equal(once(augment.posterize, flat, 0), 0 * flat)
    np.testing.assert_array_equal(once(augment.posterize, flat, 8), flat)
    few = jnp.asarray([[[[10], [200]]]], jnp.uint8)  # two pixels: step 0
    np.testing.assert_array_equal(once(augment.equalize, few), few)
    levels = jnp.asarray([[[[0], [127], [128]]]], jnp.uint8)
    got = once(augment.solarize_add, levels, 110.0)
    np.testing.assert_array_equal(got.ravel(), [110, 237, 128])


def test_auto_contrast_for_every_range_of_levels():
    """Pillow's rounding in float64, which shows in a twelfth of the ranges' levels."""
    low, high = np.triu_indices(256, 1)
    counts = np.zeros((len(low), 1, 256), np.int32)
    counts[np.arange(len(low)), 0, low] = 1
    counts[np.arange(len(low)), 0, high] = 1
    got = np.asarray(jax.jit(tone.auto_contrast_table)(counts))[:, 0].astype(int)
    scale = 255.0 / (high - low)
    level = np.arange(256)[None]
    exact = (level * scale[:, None] - (low * scale)[:, None]).astype(int)
    occurs = (level >= low[:, None]) & (level <= high[:, None])
    np.testing.assert_array_equal(got[occurs], exact[occurs])


def test_products_round_before_they_are_added():
    """A fused multiply-add would round once, where Pillow rounds twice."""
    factor = np.float32(np.random.default_rng(0).uniform(0.1, 3, 1000))[:, None]
    away = np.arange(-255, 256, dtype=np.float32)[None]
    got = jax.jit(lambda f, x: pixels.rounded_product(f, x) + np.float32(0.5))(
        factor, away
    )
    np.testing.assert_array_equal(got, factor * away + np.float32(0.5))


def test_color_jitter_file():
    _, arrays = load_golden("augment/colorjitter_photo")
    x = jnp.asarray(arrays["input"])[None]
    turn = jax.jit(augment.adjust_hue)
    for name in ("-0.1", "0.05", "0.3"):
        got = turn(x, float(name))[0]
        np.testing.assert_array_equal(got, arrays[f"pil_hue_{name}"])
    grey, solarized = once(lambda x: (augment.grayscale(x), augment.solarize(x)), x)
    np.testing.assert_array_equal(grey[0], arrays["grayscale3"])
    np.testing.assert_array_equal(solarized[0], arrays["pil_solarize_default"])
    blur = jax.jit(augment.gaussian_blur)
    for radius in ("0.1", "1", "2"):
        got = blur(x, float(radius))[0]
        np.testing.assert_array_equal(got, arrays[f"pil_gaussian_blur_r{radius}"])
    for name, fn in (
        ("brightness", augment.adjust_brightness),
        ("contrast", augment.adjust_contrast),
        ("saturation", augment.adjust_saturation),
    ):
        fn = jax.jit(fn)
        for key in (k for k in arrays if k.startswith(f"pil_{name}")):
            got = fn(x, float(key.split("_")[-1]))[0]
            np.testing.assert_array_equal(got, arrays[key], err_msg=key)

    def four(x):
        x = augment.adjust_brightness(x, 1.2)
        x = augment.adjust_saturation(augment.adjust_contrast(x, 0.8), 1.3)
        return augment.adjust_hue(x, 0.04)

    want = arrays["pil_jitter_b1.2_c0.8_s1.3_h0.04_in_that_order"]
    np.testing.assert_array_equal(once(four, x)[0], want)


def test_hue_of_every_colour():
    """All 16.7 million, through Pillow's HSV and back; a turn of none, and of some."""
    red, green, blue = np.meshgrid(*[np.arange(256)] * 3, indexing="ij")
    colours = np.stack([red, green, blue], -1).astype(np.uint8).reshape(16, 1024, -1, 3)
    turn = jax.jit(augment.adjust_hue)
    for part in colours[::5]:
        for amount in (0.0, -0.1):
            hue, *rest = PIL.Image.fromarray(part).convert("HSV").split()
            turned = np.asarray(hue).astype(int) + int(amount * 255)
            hue = PIL.Image.fromarray((turned % 256).astype(np.uint8))
            want = PIL.Image.merge("HSV", (hue, *rest)).convert("RGB")
            np.testing.assert_array_equal(turn(part[None], amount)[0], want)


def value_and_grad(fn, x, amount):
    """fn(x, amount) and the gradient of its sum, which must be finite and not zero."""

    def both(x):
        out, pull = jax.vjp(lambda x: fn(x, amount), x)
        return out, pull(jnp.ones_like(out))[0]

    out, grad = once(both, jnp.asarray(x))
    assert bool(jnp.isfinite(grad).all())
    assert bool(jnp.any(grad))
    return out


def test_floats_follow_the_formulas_for_tensors():
    x = np.random.default_rng(0).random((2, 6, 5, 3)).astype(np.float32)
    grey = (x @ np.float32([0.2989, 0.587, 0.114]))[..., None]
    kernel = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    smooth = sum(
        kernel[i, j] * padded[:, i : i + 6, j : j + 5] for i, j in np.ndindex(3, 3)
    )
    for edge in (np.s_[:, :1], np.s_[:, -1:], np.s_[:, :, :1], np.s_[:, :, -1:]):
        smooth[edge] = x[edge]
    factor = np.float32([0.4, 1.5])
    f = factor[:, None, None, None]
    for fn, under in (
        (augment.adjust_brightness, np.zeros_like(x)),
        (augment.adjust_contrast, grey.mean(axis=(1, 2), keepdims=True)),
        (augment.adjust_saturation, grey),
        (augment.adjust_sharpness, smooth),
    ):
        want = np.clip(f * x + (1 - f) * under, 0, 1)
        got = value_and_grad(fn, x, factor)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_hue_of_floats():
    x = np.random.default_rng(1).random((1, 4, 5, 3)).astype(np.float32)
    x[0, 0] = x[0, 0, :, :1]  # grey
    for amount in (0.3, -0.5):
        want = np.empty_like(x)
        for at in np.ndindex(1, 4, 5):
            h, s, v = colorsys.rgb_to_hsv(*x[at])
            want[at] = colorsys.hsv_to_rgb((h + amount) % 1, s, v)
        got = value_and_grad(augment.adjust_hue, x, amount)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_mistakes():
    x = batch(1)
    with pytest.raises(UserError, match='Did you mean "rotate"'):
        augment.apply_operation(x, codes("rotate"), jnp.ones(1), among=("rotat",))
    with pytest.raises(UserError, match="1 or 3 channels, got 2"):
        augment.grayscale(x[..., :2])
    with pytest.raises(UserError, match="largest=-1"):
        augment.gaussian_blur(x, 1.0, largest=-1.0)

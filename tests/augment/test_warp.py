"""Affine warps against Pillow: stored results, and fresh pictures of other shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from goldens import load_golden

from vit_jax_tricks.augment import (
    affine_warp,
    rotate_matrix,
    shear_x_matrix,
    shear_y_matrix,
    translate_matrix,
)
from vit_jax_tricks.errors import UserError


FILL = (124, 116, 104)
KINDS = {
    name: getattr(PIL.Image.Resampling, name.upper())
    for name in ("nearest", "bilinear", "bicubic")
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def golden_matrix(op, argument, size, dtype):
    amount = jnp.asarray([argument], dtype)
    none = jnp.zeros_like(amount)
    name = op.removesuffix("Rel")
    if op.endswith("Rel"):
        amount = amount * size[1 if name.endswith("X") else 0]
    return {
        "ShearX": lambda: shear_x_matrix(amount),
        "ShearY": lambda: shear_y_matrix(amount),
        "TranslateX": lambda: translate_matrix(amount, none),
        "TranslateY": lambda: translate_matrix(none, amount),
        "Rotate": lambda: rotate_matrix(amount, size),
    }[name]()[0]


def golden_case(kind, dtype):
    """All operations of a file: the picture once for each, matrices, expectations."""
    manifest, arrays = load_golden(f"augment/pil_geometric_{kind}_photo")
    image = arrays["input"]
    keys, matrices = [], []
    for key, op, _, _, (argument,), *_ in manifest["rows"]:
        keys.append(key)
        matrices.append(golden_matrix(op, argument, image.shape[:2], dtype))
    images = jnp.broadcast_to(image, (len(keys), *image.shape))
    return images, jnp.stack(matrices), np.stack([arrays[key] for key in keys])


def differences(out, want):
    return np.abs(np.asarray(out, int) - np.asarray(want, int))


@each_kind
def test_goldens_in_float32(kind):
    images, matrices, want = golden_case(kind, jnp.float32)
    out = affine_warp(images, matrices, fill=FILL, interpolation=kind)
    wrong = differences(out, want)
    assert out.dtype == jnp.uint8
    assert wrong.max() <= (0 if kind == "nearest" else 1)
    # 5.6 pixels are 5.5999999 in float32: whole results are cut off to one less.
    assert (wrong > 0).mean() < (0.03 if kind == "bilinear" else 1e-3)


@each_kind
@pytest.mark.usefixtures("x64")
def test_goldens_in_float64_to_the_bit(kind):
    images, matrices, want = golden_case(kind, jnp.float64)
    out = affine_warp(images, matrices, fill=FILL, interpolation=kind)
    np.testing.assert_array_equal(out, want)


def pictures():
    """One of noise, wide, and one smooth, high."""
    y, x = np.mgrid[:61, :40]
    smooth = np.stack([3 * x + y, 255 - 4 * y, 128 + 100 * np.sin(x * y / 99)], -1)
    noise = np.random.default_rng(5).integers(0, 256, (37, 52, 3), np.uint8)
    return {"noise": noise, "smooth": smooth.astype(np.uint8)}


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("name", pictures())
@pytest.mark.usefixtures("x64")
def test_other_pictures_to_the_bit(kind, name):
    image = pictures()[name]
    h, w = image.shape[:2]
    rng = np.random.default_rng(1)
    shears, shifts, angles = rng.uniform(-1, 1, (3, 4)) * [[0.4], [30], [180]]
    angles = np.append(angles, [90, 180, -90, 45, 0])
    picture = PIL.Image.fromarray(image)
    options = dict(resample=KINDS[kind], fillcolor=FILL)
    want = [picture.rotate(a, **options) for a in angles]
    for s, t in zip(shears, shifts, strict=True):
        for matrix in ((1, s, 0, 0, 1, 0), (1, 0, 0, s, 1, 0), (1, 0, t, 0, 1, -t)):
            want.append(
                picture.transform(picture.size, PIL.Image.AFFINE, matrix, **options)
            )
    s, t = jnp.asarray(shears), jnp.asarray(shifts)
    linear = [shear_x_matrix(s), shear_y_matrix(s), translate_matrix(t, -t)]
    matrices = jnp.concatenate(
        [
            rotate_matrix(jnp.asarray(angles), (h, w)),
            jnp.stack(linear, axis=1).reshape(-1, 6),
        ]
    )
    images = jnp.broadcast_to(image, (len(want), *image.shape))
    out = affine_warp(images, matrices, fill=FILL, interpolation=kind)
    wrong = differences(out, np.stack(want))
    assert wrong.max() <= 1
    # At 45 degrees Pillow rounds the sine in another way.
    assert (wrong > 0).sum() <= 3
    single = affine_warp(
        images, matrices.astype(jnp.float32), fill=FILL, interpolation=kind
    )
    assert (differences(single, np.stack(want)) > 1).mean() < 1e-3


def batch(n=6, h=12, w=17):
    rng = np.random.default_rng(3)
    angles = jnp.asarray(rng.uniform(-40, 40, n), jnp.float32)
    images = jnp.asarray(rng.integers(0, 256, (n, h, w, 3), np.uint8))
    return images, rotate_matrix(angles, (h, w))


@pytest.mark.slow
def test_a_kind_for_each_image():
    images, matrices = batch()
    kinds = np.arange(6) % 3
    out = affine_warp(images, matrices, fill=7, interpolation=jnp.asarray(kinds))
    for i, kind in enumerate(KINDS):
        want = affine_warp(images, matrices, fill=7, interpolation=kind)
        wrong = differences(out[kinds == i], want[kinds == i])
        assert wrong.max() <= (0 if kind == "nearest" else 1)
        assert (wrong > 0).mean() < 1e-3


@each_kind
def test_float_images_are_not_rounded_and_stay_in_range(kind):
    images, matrices = batch()
    floats = images.astype(jnp.float32) / 255
    out = affine_warp(floats, matrices, fill=0.5, interpolation=kind) * 255
    levels = affine_warp(images, matrices, fill=127, interpolation=kind)
    assert 0 <= float(out.min()) <= float(out.max()) <= 255.0001
    # uint8 is the same, cut off; one unit more where rounding decides.
    assert float(jnp.abs(out - 0.4999 - levels.astype(jnp.float32)).max()) < 0.501
    if kind != "nearest":
        assert float(jnp.abs(out - jnp.round(out)).max()) > 0.3


def test_half_precision_follows_float32():
    images, matrices = batch()
    floats = images.astype(jnp.float32) / 255
    out = affine_warp(floats.astype(jnp.bfloat16), matrices)
    assert out.dtype == jnp.bfloat16
    want = affine_warp(floats, matrices)
    # bfloat16 keeps 8 bits; the cubic's weights add up to 1.5 * 1.5 in size.
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=2.25 * 2**-8)


def test_class_ids_are_read_as_they_are():
    images, matrices = batch()
    ids = images.astype(jnp.int32) * 70001
    out = affine_warp(ids, matrices, fill=-1, interpolation="nearest")
    assert set(np.unique(out)) <= {-1, *np.unique(ids).tolist()}


def test_far_outside_is_fill():
    images, _ = batch()
    shift = jnp.asarray([1e9, -1e9, 3e38, 1e5, -1e5, 17.0])
    for kind in KINDS:
        out = affine_warp(
            images, translate_matrix(shift, shift), fill=9, interpolation=kind
        )
        assert bool((out == 9).all())


def gathers(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "gather":
            yield eqn
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from gathers(value.jaxpr)


@each_kind
def test_no_index_is_larger_than_a_number_for_each_pixel(kind):
    images, matrices = batch()
    jaxpr = jax.make_jaxpr(lambda x, m: affine_warp(x, m, interpolation=kind))(
        images, matrices
    )
    found = [eqn.invars[1].aval.size for eqn in gathers(jaxpr.jaxpr)]
    assert len(found) == {"nearest": 1, "bilinear": 4, "bicubic": 16}[kind]
    assert max(found) <= 6 * 12 * 17


def test_mistakes():
    images, matrices = batch()
    with pytest.raises(UserError, match='"cubic" is unknown'):
        affine_warp(images, matrices, interpolation="cubic")

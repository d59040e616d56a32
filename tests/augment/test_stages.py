"""Labels of tokens go where the stages move the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import sparse

from configs import common
from vit_jax_tricks import augment
from vit_jax_tricks.augment import parse, policy
from vit_jax_tricks.augment.operations import WARPS, is_one_of
from vit_jax_tricks.augment.pixels import to_float
from vit_jax_tricks.augment.stages import still
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.objectives.targets import crop_boxes
from vit_jax_tricks.random import example_keys, fold_in_str


KEY = jax.random.key(3)
SIDE, BATCH = 32, 24
INDEX = jnp.arange(BATCH) + 7
MOVES = {
    "crop": dict(crop="random_resized", crop_scale=(0.3, 1.0)),
    "random_or_center": dict(crop="random_or_center", crop_scale=(0.3, 1.0)),
    "simple": dict(crop="simple"),
    "flip": dict(flip=True),
    "affine": dict(degrees=20.0, translate=0.1, scale=(0.8, 1.2), shear=10.0),
    "pad": dict(pad=4),
    "policy": dict(auto_augment="rand-m9-n1"),
}
MOVES["all"] = {k: v for move in MOVES.values() for k, v in move.items()}


def make(**changes):
    options = dict(common.get_config().augment) | dict(interpolation="bilinear")
    return augment.from_config(mean=(0.5,) * 3, **options | changes)


def slopes():
    """Images whose first two channels say where they are, (x, y) in 64..192 / 255."""
    levels = np.round(64 + 128 * (np.arange(SIDE) + 0.5) / SIDE)
    x, y = np.meshgrid(levels, levels)
    image = np.stack([x, y, np.full_like(x, 64)], axis=-1)
    return jnp.asarray(np.broadcast_to(image, (BATCH, *image.shape)), jnp.uint8)


@pytest.mark.parametrize("move", sparse(list(MOVES), every=4))
def test_the_geometry_is_what_happened(move):
    stack, images = make(**MOVES[move]), slopes()
    out, geometry = jax.jit(stack.augment)(KEY, images, INDEX)
    moved = augment.apply_to_dense(geometry, to_float(images))
    known = augment.apply_to_dense(geometry, jnp.ones((BATCH, SIDE, SIDE, 1)))[..., 0]
    # Mirrored and filled places have a slope of their own: leave the border out.
    inside = np.asarray(known == 1) & (np.asarray(out[..., 2]) == np.float32(64 / 255))
    if "policy" in (move, *(["policy"] if move == "all" else [])):
        keys = example_keys(fold_in_str(KEY, "policy"), INDEX)
        law = parse.parse_policy("rand-m9-n1")
        op, _ = policy.draw(law, keys, (SIDE, SIDE))
        warped = np.asarray(is_one_of(op[:, 0], ("identity", *WARPS)))
        assert 3 < warped.sum() < BATCH
        inside &= warped[:, None, None]
    assert inside.sum() > 2000
    error = np.abs(np.asarray(out - moved))[..., :2][inside]
    assert np.quantile(error, 0.98) < 3 / 255
    still = np.abs(np.asarray(out - to_float(images)))[..., :2][inside]
    assert (still > 8 / 255).mean() > 0.05


# Every key that acts before the images are normalised, so that every stage is there.
ON = MOVES["all"] | dict(
    crop="random_or_center",
    crop_ratio=(0.7, 1.4),
    interpolation="bilinear",
    color_jitter=0.3,
    hue=0.1,
    jitter_prob=0.9,
)
LATER = ("erasing", "mix", "cutmix", "switch_prob", "multi_scale")


def test_every_stage_is_on():
    keys = common.get_config().augment
    assert {key for key in keys if not key.startswith(LATER)} == set(ON)


STAGES = {
    name: stage
    for policy_name in ("original", "rand-m9-n1-inc1", "3a", "trivial")
    for name, stage in (
        (f"{name} {policy_name}" if name == "policy" else name, stage)
        for name, stage in augment.stages(
            mean=(0.5,) * 3,
            **dict(common.get_config().augment) | ON | dict(auto_augment=policy_name),
        )
    )
}


def resizing(**changes):
    """The one stage that resizes to another size."""
    options = dict(common.get_config().augment) | changes
    ((_, stage),) = augment.stages(mean=(0.5,) * 3, size=24, **options)
    return stage


SMALLER = {
    "size": resizing(),
    **{
        f"size {crop}": resizing(crop=crop, crop_scale=(0.5, 1.0))
        for crop in ("random_resized", "random_or_center", "simple")
    },
}
STAGES |= SMALLER


@pytest.mark.parametrize("name", SMALLER)
def test_a_stack_of_another_size(name):
    start = augment.identity_geometry(BATCH, (SIDE, SIDE))
    out, geometry = jax.eval_shape(SMALLER[name], KEY, slopes(), INDEX, start)
    assert out.shape == (BATCH, 24, 24, 3)
    assert (geometry.source, geometry.size) == ((SIDE, SIDE), (24, 24))


def likeness(stage):
    """How alike a stage's images and the images moved by its geometry are, at worst.

    The correlation of grey levels, which no operation on colours changes much; of ten
    images, the second to last.
    """
    cells = np.random.default_rng(0).integers(0, 2, (BATCH, 5, 5, 1))
    images = np.full((BATCH, SIDE, SIDE, 3), 70, np.uint8)
    images[:, 1:-1, 1:-1] += (100 * cells).astype(np.uint8).repeat(6, 1).repeat(6, 2)
    images = jnp.asarray(images)
    start = augment.identity_geometry(BATCH, (SIDE, SIDE))
    out, geometry = jax.jit(stage)(KEY, images, INDEX, start)
    moved = augment.apply_to_dense(geometry, to_float(images))
    known = augment.apply_to_dense(geometry, jnp.ones((BATCH, SIDE, SIDE, 1)))[..., 0]
    found = []
    for a, b, inside in zip(to_float(out), moved, np.asarray(known == 1), strict=True):
        a, b = np.asarray(a).mean(-1)[inside], np.asarray(b).mean(-1)[inside]
        if a.std() > 0.01 and b.std() > 0.01:
            found.append(abs(np.corrcoef(a, b)[0, 1]))
    assert len(found) > 0.6 * BATCH
    return np.quantile(found, 0.1)


@pytest.mark.parametrize("name", sparse(list(STAGES), every=4))
def test_no_stage_forgets_its_moves(name):
    assert likeness(STAGES[name]) > 0.8


def test_a_stage_that_forgets_its_moves_is_found():
    """Whether it claims to move nothing, or returns the images alone."""

    def mirror(key, images, index):
        return images[:, :, ::-1]

    assert likeness(still(mirror)) < 0.5
    with pytest.raises((TypeError, ValueError)):
        likeness(lambda key, images, index, geometry: mirror(key, images, index))


def test_a_flip_after_a_warp():
    """As if both were done one after the other; twice, the flip is undone."""
    matrix = augment.rotate_matrix(jnp.linspace(-40.0, 40.0, BATCH), (SIDE, SIDE))
    flips = jnp.arange(BATCH) % 3 == 0
    start = augment.identity_geometry(BATCH, (SIDE, SIDE))
    warped = start.flipped(flips[::-1]).warped(matrix)
    images = to_float(slopes())
    once = augment.apply_to_dense(warped, images)
    want = jnp.where(flips[:, None, None, None], once[:, :, ::-1], once)
    got = augment.apply_to_dense(warped.flipped(flips), images)
    np.testing.assert_allclose(got, want, atol=1e-5)
    again = warped.flipped(flips).flipped(flips)
    np.testing.assert_array_equal(again.flip, warped.flip)
    np.testing.assert_allclose(again.affine, warped.affine, atol=1e-5)


@pytest.mark.slow
def test_one_geometry_for_every_place_in_the_batch():
    stack, images = make(**MOVES["all"]), slopes()
    whole = stack.augment(KEY, images, INDEX)[1]
    part = stack.augment(KEY, images[5:9], INDEX[5:9])[1]
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(one[5:9], other, rtol=1e-6, atol=1e-6)


def test_labels_cannot_follow_aug_mix():
    stack = make(auto_augment="augmix-m3-w3", flip=True)
    shape = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8)
    _, geometry = jax.eval_shape(stack.augment, KEY, shape, INDEX)
    geometry = augment.identity_geometry(BATCH, (SIDE, SIDE)).replace(
        overlaid=geometry.overlaid
    )
    maps, boxes = jnp.ones((BATCH, 4, 4, 1)), jnp.ones((BATCH, 1, 4))
    outer = jnp.ones((BATCH, 4))
    for follow in (
        lambda: augment.apply_to_dense(geometry, maps),
        lambda: augment.apply_to_dense(geometry.uncropped(), maps),
        lambda: augment.apply_to_boxes(geometry, boxes),
        lambda: crop_boxes(outer, geometry),
    ):
        with pytest.raises(UserError, match="cannot follow AugMix"):
            follow()

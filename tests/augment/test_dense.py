"""Labels move as the images do: maps, masks and boxes by the same draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks.augment import (
    affine_warp,
    apply_to_boxes,
    apply_to_dense,
    crop_and_resize,
    cutmix_with,
    draw_mix,
    identity_geometry,
    random_affine_matrix,
    random_flips,
    random_or_center_crop,
    random_resized_crop,
    rotate_matrix,
    simple_random_crop,
)


KEY = jax.random.key(8)
N = 12
INDEX = jnp.arange(N)
IMAGES = jnp.asarray(
    np.random.default_rng(0).integers(0, 256, (N, 20, 26, 3)), jnp.uint8
)
move = jax.jit(apply_to_dense, static_argnames=("size", "interpolation", "fill"))
nearest = functools.partial(move, interpolation="nearest")


CROPS = {
    "random resized": functools.partial(random_resized_crop, size=(16, 12)),
    "either": functools.partial(random_or_center_crop, size=16),
    "simple": functools.partial(simple_random_crop, size=16, pad=5),
}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_masks_follow_every_crop(crop):
    """The image as its own mask, but where exact halves round to either side."""
    cropped = jax.jit(functools.partial(crop, interpolation="nearest"))
    out, geometry = cropped(KEY, IMAGES, INDEX)
    assert np.mean(np.any(out != nearest(geometry, IMAGES), axis=-1)) < 0.02
    flips = random_flips(KEY, INDEX)
    out = jnp.where(flips[:, None, None, None], out[:, :, ::-1], out)
    moved = nearest(geometry.replace(flip=flips), IMAGES)
    assert np.mean(np.any(out != moved, axis=-1)) < 0.02


@pytest.mark.slow
def test_warp_after_crop_and_flip():
    """Three steps one by one, and at once, on a smooth picture."""
    y, x = np.mgrid[:40, :52] + 0.5
    smooth = np.stack([y / 40, x / 52], axis=-1)[None].astype(np.float32)
    images = jnp.broadcast_to(smooth, (N, 40, 52, 2))
    crop = functools.partial(random_resized_crop, interpolation="bilinear")
    out, geometry = jax.jit(functools.partial(crop, size=(24, 30)))(KEY, images, INDEX)
    flips = random_flips(KEY, INDEX)
    matrices = random_affine_matrix(KEY, INDEX, (24, 30), degrees=20.0, translate=0.1)
    out = jnp.where(flips[:, None, None, None], out[:, :, ::-1], out)
    out = affine_warp(out, matrices, fill=-1.0, interpolation="bilinear")
    moved = move(geometry.replace(flip=flips, affine=matrices), images, fill=-1.0)
    np.testing.assert_array_equal(out < 0, moved < 0)
    assert 0.02 < float((out < 0).mean()) < 0.5
    # Shrinking keeps ramps to a few hundredths of a pixel, but for the edges.
    assert float(jnp.abs(out - moved).max()) < 2 / 24
    assert float(jnp.median(jnp.abs(out - moved))) < 0.05 / 52


def test_maps_of_another_resolution():
    """An 8 x 8 map over a 32 x 32 source, cut where the picture was cut."""
    maps = jnp.asarray(np.random.default_rng(1).random((2, 8, 8, 5)), jnp.float32)
    geometry = identity_geometry(2, (32, 32), (16, 16))
    box = jnp.array([[0, 0, 32, 32], [8, 16, 16, 16]])
    geometry = geometry.replace(box=box, flip=jnp.array([False, True]))
    out = move(geometry, maps, size=(4, 4), interpolation="nearest")
    np.testing.assert_array_equal(out[1], maps[1, 2:6, 4:8][:, ::-1])
    smooth = move(geometry, maps, size=(4, 4))
    np.testing.assert_allclose(
        smooth[0], maps[0].reshape(4, 2, 4, 2, 5).mean((1, 3)), atol=1e-6
    )
    np.testing.assert_allclose(smooth[1], out[1], atol=1e-6)


def test_class_ids_and_probabilities_keep_their_kind():
    ids = jnp.asarray(np.random.default_rng(2).integers(0, 1000, (N, 20, 26, 1)))
    turn = rotate_matrix(jnp.full(N, 30.0), (20, 26))
    geometry = identity_geometry(N, (20, 26)).replace(affine=turn)
    out = nearest(geometry, ids, fill=-1)
    assert out.dtype == ids.dtype
    assert set(np.unique(out)) <= {-1, *np.unique(ids).tolist()}
    soft = jax.nn.one_hot(ids[..., 0] % 4, 4, dtype=jnp.bfloat16)
    out = move(geometry, soft, fill=0.25)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.sum(-1).astype(jnp.float32), 1, atol=2**-7)


def test_cutmix_cuts_masks():
    draw = draw_mix(KEY, N, (20, 26), mixup_alpha=0.0, mode="elem")
    images, _ = cutmix_with(IMAGES, jnp.zeros((N, 2)), draw.box)
    geometry = identity_geometry(N, (20, 26)).replace(cut=draw.box)
    np.testing.assert_array_equal(images, nearest(geometry, IMAGES))
    # On a grid a cell goes to whom its middle shows.
    cells = nearest(geometry, jnp.repeat(IMAGES[:, :1, :1], 20, 1), size=(10, 13))
    rows = (2 * np.arange(10) + 1)[None, :, None]
    columns = (2 * np.arange(13) + 1)[None, None]
    y0, y1, x0, x1 = np.asarray(draw.box).T[..., None, None]
    inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    own = IMAGES[:, None, None, 0, 0]
    want = jnp.where(inside[..., None], own[::-1], own)
    np.testing.assert_array_equal(cells, want)


def test_boxes_enclose_their_masks():
    """A filled rectangle, moved as a mask, lies in its moved box and touches it."""
    source, size = (60, 80), (48, 40)
    rng = np.random.default_rng(4)
    low = rng.integers(2, 20, (N, 2))
    high = low + rng.integers(15, 38, (N, 2))
    boxes = np.concatenate([low, high], axis=1)
    mask = np.zeros((N, *source, 1), np.float32)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        mask[i, y0:y1, x0:x1] = 1
    crop = jax.jit(functools.partial(random_resized_crop, size=size, scale=(0.3, 1.0)))
    _, geometry = crop(KEY, mask, INDEX)
    geometry = geometry.replace(
        flip=random_flips(KEY, INDEX),
        affine=random_affine_matrix(KEY, INDEX, size, degrees=25.0, translate=0.1),
    )
    moved = np.asarray(nearest(geometry, jnp.asarray(mask)))[..., 0]
    got = apply_to_boxes(geometry, jnp.asarray(boxes[:, None], jnp.float32))[:, 0]
    assert got.shape == (N, 4)
    seen = 0
    for inside, (y0, x0, y1, x1) in zip(moved, np.asarray(got), strict=True):
        ys, xs = np.nonzero(inside)
        if not len(ys):
            continue
        seen += 1
        assert y0 - 1 <= ys.min()
        assert ys.max() + 1 <= y1 + 1
        assert x0 - 1 <= xs.min()
        assert xs.max() + 1 <= x1 + 1
    assert seen > N // 2


def test_boxes_without_rotation_are_exact():
    geometry = identity_geometry(2, (40, 40), (20, 20)).replace(
        box=jnp.array([[10, 20, 20, 10], [0, 0, 40, 40]]),
        flip=jnp.array([False, True]),
    )
    boxes = jnp.array([[[12.0, 21.0, 22.0, 26.0], [0.0, 0.0, 5.0, 5.0]]] * 2)
    got = apply_to_boxes(geometry, boxes)
    np.testing.assert_allclose(got[0, 0], [2, 2, 12, 12])
    np.testing.assert_allclose(got[1, 0], [6, 7, 11, 9.5])
    y0, x0, y1, x1 = got[0, 1]
    assert (y1 - y0) * (x1 - x0) == 0  # cut away


def test_identity_changes_nothing():
    geometry = identity_geometry(N, (20, 26))
    np.testing.assert_array_equal(nearest(geometry, IMAGES), IMAGES)
    same = crop_and_resize(IMAGES, geometry.box, size=geometry.size)
    np.testing.assert_array_equal(same, IMAGES)
    boxes = jnp.array([[[1.0, 2.0, 3.0, 4.0]]] * N)
    np.testing.assert_array_equal(apply_to_boxes(geometry, boxes), boxes)

"""Labels of tokens go where the stack moves the pixels."""

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
from vit_jax_tricks.errors import UserError
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
def test_the_trace_is_what_happened(move):
    stack, images = make(**MOVES[move]), slopes()
    out = jax.jit(stack.augment)(KEY, images, INDEX)
    geometry = jax.jit(stack.trace, static_argnums=2)(KEY, INDEX, (SIDE, SIDE))
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


@pytest.mark.slow
def test_one_trace_for_every_place_in_the_batch():
    stack = make(**MOVES["all"])
    whole = stack.trace(KEY, INDEX, (SIDE, SIDE))
    part = stack.trace(KEY, INDEX[5:9], (SIDE, SIDE))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(one[5:9], other, rtol=1e-6, atol=1e-6)


def test_aug_mix_has_no_trace():
    stack = make(auto_augment="augmix-m3-w3")
    with pytest.raises(UserError, match="cannot follow AugMix"):
        stack.trace(KEY, INDEX, (SIDE, SIDE))

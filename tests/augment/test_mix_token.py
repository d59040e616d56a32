"""MixToken: boxes, maps and shares."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks.augment.mix_token import mix_token_box, mix_tokens, random_box


KEY = jax.random.key(0)


def reference_box(lam, centre, size):
    """TokenLabeling's box, stated for one side at a time."""
    box = []
    for side, c in zip(size, centre, strict=True):
        half = int(side * math.sqrt(1 - lam)) // 2
        box += [max(c - half, 0), min(c + half, side)]
    return box


@pytest.mark.parametrize("size", [(14, 14), (24, 10)])
def test_box_is_the_reference_s(size):
    box = jax.jit(mix_token_box, static_argnums=2)
    for lam in (0.0, 0.1, 0.3, 0.49, 0.75, 0.98, 1.0):
        for centre in ((0, 0), (3, 9), (size[0] - 1, size[1] - 1)):
            found = box(jnp.float32(lam), jnp.asarray(centre), size)
            assert list(map(int, found)) == reference_box(np.float32(lam), centre, size)


def test_the_box_comes_from_the_reversed_batch_and_goes_back():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5, 6, 3), np.float32))
    box = jnp.asarray([1, 3, 2, 6])
    y, share = mix_tokens(x, box)
    expected = np.array(x)
    expected[:, 1:3, 2:6] = np.array(x)[::-1, 1:3, 2:6]
    np.testing.assert_array_equal(y, expected)
    assert float(share) == pytest.approx(1 - 8 / 30)
    np.testing.assert_array_equal(mix_tokens(y, box)[0], x)
    whole, share = mix_tokens(x, jnp.asarray([2, 2, 0, 6]))
    np.testing.assert_array_equal(whole, x)
    assert float(share) == 1


def test_boxes_are_drawn_inside_the_map():
    draw = jax.jit(jax.vmap(lambda key: random_box(key, (14, 10))))
    boxes = np.asarray(draw(jax.random.split(KEY, 4000)))
    y0, y1, x0, x1 = boxes.T
    for low, high, side in ((y0, y1, 14), (x0, x1, 10)):
        assert (low >= 0).all()
        assert (low <= high).all()
        assert (high <= side).all()
        assert low.min() == 0
        assert high.max() == side
    share = (y1 - y0) * (x1 - x0) / 140
    # lam is uniform: the area is 1/2 on average before rounding and clipping.
    assert 0.25 < share.mean() < 0.5
    assert share.max() > 0.5

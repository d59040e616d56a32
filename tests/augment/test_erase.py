"""Random erasing against timm with boxes and noise given, and its law."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import base_normal, load_golden
from scipy import stats

from vit_jax_tricks.augment import erase_boxes, random_erasing, random_erasing_boxes
from vit_jax_tricks.errors import UserError


KEY = jax.random.key(2)
DRAWS = 20_000


def erased(images, **options):
    images = jnp.asarray(images)
    run = jax.jit(functools.partial(random_erasing, **options))
    return np.asarray(run(KEY, images, jnp.arange(len(images))))


def filled(shape, box):
    mask = np.zeros(shape, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def two_boxes(black, starts):
    """The boxes from two given corners that make up these black pixels."""
    (top, left), (top2, left2) = starts
    h, w = black.shape
    for bottom, right in itertools.product(range(top + 1, h), range(left + 1, w)):
        box = (top, bottom, left, right)
        rest = np.argwhere(black & ~filled(black.shape, box))
        if not len(rest):
            continue
        other = (top2, rest[:, 0].max() + 1, left2, rest[:, 1].max() + 1)
        union = filled(black.shape, box) | filled(black.shape, other)
        if np.array_equal(union, black):
            return box, other
    raise AssertionError("no two boxes")


@pytest.mark.parametrize("case", range(4))
def test_goldens(case):
    manifest, arrays = load_golden("augment/random_erasing")
    facts = manifest["cases"][case]
    images = arrays["images"].transpose(0, 2, 3, 1)
    n, h, w, c = images.shape
    count = facts["kwargs"].get("max_count", 1)
    want = arrays[f"out{case}"].transpose(0, 2, 3, 1)
    boxes = np.zeros((n, count, 4), np.int32)
    noise = np.zeros((n, count, h, w, c), np.float32)
    starts = np.reshape(facts["top_left_draws"], (n, count, 2))
    if count == 1:
        boxes[:, 0] = facts["changed_area_y0_y1_x0_x1"]
        np.testing.assert_array_equal(boxes[:, 0, [0, 2]], starts[:, 0])
    else:
        for i, both in enumerate(starts):
            boxes[i] = two_boxes((want[i] == 0).all(axis=-1), both)
    for i in range(n):
        for j in range(count):
            y0, y1, x0, x1 = boxes[i, j]
            if facts["kwargs"]["mode"] != "const":
                shape = facts["fill_shapes"][i]
                fill = base_normal(f"erase:fill:{case}:{i}", shape)
                noise[i, j, y0:y1, x0:x1] = fill.transpose(1, 2, 0)
    out = erase_boxes(images, jnp.asarray(boxes), jnp.asarray(noise))
    np.testing.assert_array_equal(out, want)


def boxes(size, n=DRAWS, **options):
    draw = functools.partial(random_erasing_boxes, size=size, **options)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, n)))


def reference_box(rng, h, w, count=1):
    """The law as it is written down: area, then ratio, ten times."""
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * h * w / count
        ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        height, width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if width < w and height < h:
            top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
            return top, top + height, left, left + width
    return 0, 0, 0, 0


@pytest.mark.parametrize("size", [(64, 64), (20, 60)], ids=str)
def test_law_of_the_box(size):
    """Area, ratio and place against NumPy's draws: p > 0.001 for each."""
    rng = np.random.default_rng(0)
    samples = []
    for draws in (
        boxes(size)[:, 0],
        np.array([reference_box(rng, *size) for _ in range(DRAWS)]),
    ):
        y0, y1, x0, x1 = draws.T
        height, width = y1 - y0, x1 - x0
        assert height.max() < size[0]
        assert width.max() < size[1]
        samples.append(
            {
                "area": height * width,
                "ratio": height / np.maximum(width, 1),
                "top": y0 / (size[0] - height),
                "left": x0 / (size[1] - width),
            }
        )
    for name in samples[0]:
        assert stats.ks_2samp(samples[0][name], samples[1][name]).pvalue > 1e-3, name


def test_several_boxes_share_the_area():
    draws = boxes((64, 64), count=(1, 3))
    area = (draws[..., 1] - draws[..., 0]) * (draws[..., 3] - draws[..., 2])
    number = (area > 0).sum(axis=1)
    counts = np.bincount(number, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    for k in (1, 2, 3):
        each = area[number == k][:, :k] / 64**2
        # Uniform in 0.02..1/3 of a k-th; the mean of n draws has deviation s / sqrt(n).
        low, high = 0.02 / k, 1 / 3 / k
        error = (high - low) / np.sqrt(12 * each.size)
        assert abs(each.mean() - (low + high) / 2) < 5 * error


def test_how_many_boxes_does_not_depend_on_whether_there_are_any():
    """Of the half that is erased, half has one box and half has two colours."""
    images = np.zeros((4000, 16, 16, 1), np.float32)
    out = erased(images, prob=0.5, mode="rand", count=(1, 2))
    colours = np.array([len(np.unique(image)) - 1 for image in out])
    two = int((colours == 2).sum())
    assert 0.4 < two / (colours > 0).sum() < 0.55  # a box may hide the other


def test_share_of_images():
    out = erased(np.ones((4000, 8, 8, 1), np.float32), prob=0.3, mode="const")
    changed = int((out != 1).any(axis=(1, 2, 3)).sum())
    assert stats.binomtest(changed, 4000, 0.3).pvalue > 1e-3
    images = np.ones((5, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(erased(images, prob=0.0), images)


def test_modes():
    images = np.full((40, 24, 24, 3), 9.0, np.float32)
    masks = {}
    for mode in ("const", "rand", "pixel"):
        out = erased(images, prob=1.0, mode=mode)
        masks[mode] = (out != 9).any(axis=-1)
        inside = out[masks[mode]]
        if mode == "const":
            assert not inside.any()
        elif mode == "pixel":
            assert stats.kstest(inside.ravel(), "norm").pvalue > 1e-3
            assert len(np.unique(inside)) > 0.99 * inside.size  # none comes twice
            correlations = np.corrcoef(inside.T) - np.eye(3)
            assert abs(correlations).max() < 5 / np.sqrt(len(inside))
        else:
            colours = [
                np.unique(o[m], axis=0) for o, m in zip(out, masks[mode], strict=True)
            ]
            assert {len(c) for c in colours} == {1}
            assert stats.kstest(np.concatenate(colours).ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(masks["const"], masks["rand"])
    np.testing.assert_array_equal(masks["const"], masks["pixel"])


def test_images_do_not_share_their_noise():
    out = erased(np.full((12, 16, 16, 3), 9.0, np.float32), prob=1.0)
    first = [o[(o != 9).any(axis=-1)][0] for o in out]
    assert len(np.unique(first, axis=0)) == 12


def test_noise_before_normalisation():
    """mean and std of the data set in [0, 1] are noise of the normalised image."""
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    images = np.random.default_rng(0).random((8, 12, 12, 3)).astype(np.float32)
    before = erased(images, prob=0.8, mean=tuple(mean), std=tuple(std))
    after = erased((images - mean) / std, prob=0.8)
    np.testing.assert_allclose((before - mean) / std, after, atol=1e-5)


def test_types():
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)
    out = erased(images, prob=1.0, mean=128, std=300)
    assert out.dtype == np.uint8
    changed = out[(out != images).any(axis=-1)]
    assert {0, 255} < set(np.unique(changed))  # kept within 0..255
    half = erased(images.astype(jnp.bfloat16), prob=1.0)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mode="pixels"), 'mode="pixels" is unknown'),
        (dict(prob=1.5), "prob=1.5"),
        (dict(count=(0, 1)), "count="),
        (dict(scale=(0.5, 0.1)), "scale="),
        (dict(ratio=(0.0, 1.0)), "ratio="),
    ],
    ids=str,
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        random_erasing(KEY, jnp.zeros((2, 8, 8, 3)), jnp.arange(2), **options)

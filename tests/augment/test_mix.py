"""Mixup and CutMix against timm with lambda and box fixed, and their laws."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats

from vit_jax_tricks.augment import (
    blend,
    cutmix,
    cutmix_box,
    cutmix_with,
    draw_mix,
    mix_weights,
    mixup,
    mixup_or_cutmix,
    mixup_with,
)
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses import smooth_labels


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/augment/mixup_cutmix.npz")
CASES = {c["key"]: c for c in json.loads(str(GOLDEN["manifest"]))["cases"]}
KEY = jax.random.key(0)


def batch(dtype=jnp.float32, n=8, h=12, w=10, k=5):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((n, h, w, 3)), dtype)
    return images, jnp.asarray(np.eye(k)[rng.integers(0, k, n)], jnp.float32)


@pytest.mark.parametrize("case", CASES)
def test_timm_with_given_draws(case):
    mode, method, *nocorrect = case.split("_")
    images = jnp.asarray(GOLDEN["images"].transpose(0, 2, 3, 1))
    labels = jnp.asarray(np.eye(6, dtype=np.float32)[GOLDEN["labels"]])
    lam = np.array(CASES[case]["lam"], np.float32)
    rows = [r[:4] for r in CASES[case]["boxes_yl_yh_xl_xh_lam"]]
    if method == "cutmix" and mode == "elem":
        rows.append([0, 0, 0, 0])  # lambda 1: timm skips the sample
    boxes = np.array(rows, np.int32)
    if mode == "pair":  # a pair shares its draw
        lam = np.concatenate([lam, lam[::-1]])
        boxes = np.concatenate([boxes, boxes[::-1]])
    elif mode == "batch":
        lam, boxes = lam[0], boxes[0] if len(boxes) else boxes
    if method == "mixup":
        out, target = mixup_with(images, labels, jnp.asarray(lam))
    else:
        given = jnp.asarray(lam) if nocorrect else None
        out, target = cutmix_with(images, labels, jnp.asarray(boxes), given)
    want = GOLDEN[f"{case}_images"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, want, atol=1e-6)
    target = smooth_labels(target, smoothing=0.1)
    np.testing.assert_allclose(target, GOLDEN[f"{case}_targets"], atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_box_of_timm():
    for lam, cy, cx, *box in GOLDEN["bbox_table"]:
        got = cutmix_box(jnp.float64(lam), jnp.array([cy, cx], int), (8, 10))
        np.testing.assert_array_equal(got, box[:4], err_msg=f"{lam} {cy} {cx}")


MIXERS = {
    "mixup": functools.partial(mixup, alpha=0.8),
    "cutmix": functools.partial(cutmix, alpha=1.0),
    "either": mixup_or_cutmix,
}
each_mixer = pytest.mark.parametrize("mix", MIXERS.values(), ids=MIXERS)


@each_mixer
def test_label_mass_is_pixel_mass(mix):
    """Images that are all 1 for one class and 0 for its partner show their share."""
    labels = jnp.eye(2)[jnp.array([0, 0, 1, 1])]
    images = jnp.broadcast_to(labels[:, None, None, :1], (4, 9, 7, 1))
    keys = jax.random.split(KEY, 50)
    out, target = jax.jit(jax.vmap(mix, (0, None, None)))(keys, images, labels)
    np.testing.assert_allclose(out.mean(axis=(2, 3, 4)), target[..., 0], atol=1e-6)
    np.testing.assert_allclose(target.sum(-1), 1.0, atol=1e-6)
    assert len(np.unique(target)) > 20


@pytest.mark.slow
def test_jit_devices_and_keys():
    images, labels = batch()
    key = jax.random.key(2)
    keys = jnp.stack([KEY, key])
    eager = mixup_or_cutmix(key, images, labels)
    one = jax.jit(mixup_or_cutmix)(key, images, labels)
    both = jax.jit(jax.vmap(mixup_or_cutmix, (0, None, None)))(keys, images, labels)
    for j in range(2):
        np.testing.assert_allclose(one[j], eager[j], atol=1e-6)
        np.testing.assert_allclose(both[j][1], one[j], atol=1e-6)
    assert not np.allclose(both[0][0], both[0][1])
    sharding = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
    placed = jax.device_put((images, labels), sharding)
    eight = jax.jit(mixup_or_cutmix, out_shardings=sharding)(key, *placed)
    np.testing.assert_allclose(eight[0], one[0], atol=1e-6)
    np.testing.assert_allclose(eight[1], one[1], atol=1e-6)


def test_dtype_and_gradients():
    images, labels = batch()
    weights, lam = jnp.full((1, 12, 10), 0.3), jnp.full(1, 0.3)
    out, _ = blend(images.astype(jnp.bfloat16), labels, weights, lam)
    assert out.dtype == jnp.bfloat16
    mass = jax.grad(lambda x: mixup_or_cutmix(KEY, x, labels)[0].sum())
    grad = jax.jit(mass)(images)
    np.testing.assert_allclose(grad.sum(), grad.size, rtol=1e-5)  # weights sum to 1


def draws(n=3000, size=(32, 32), **options):
    options = dict(mixup_alpha=0.8, cutmix_alpha=1.0) | options
    keys = jax.random.split(jax.random.key(7), n)
    weights, lam = jax.jit(jax.vmap(lambda k: mix_weights(k, size, **options)))(keys)
    weights = np.asarray(weights).reshape(n, -1)
    np.testing.assert_allclose(weights.mean(1), lam[:, 0], atol=2e-6)
    return weights, np.asarray(lam[:, 0])


def test_law_of_lambda_and_of_the_switch():
    _, lam = draws(cutmix_alpha=0.0, mixup_alpha=0.4)
    assert abs(lam.mean() - 0.5) < 0.03
    assert abs(lam.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01  # of Beta(0.4, 0.4)
    weights, lam = draws(switch_prob=0.3, prob=0.6)
    untouched = lam == 1
    binary = np.isin(weights, (0, 1)).all(axis=1)
    assert abs(untouched.mean() - 0.4) < 0.04  # and a few empty boxes
    assert abs((binary & ~untouched).mean() - 0.18) < 0.03
    assert abs((~binary).mean() - 0.42) < 0.03


def test_law_of_the_box():
    """Clipping makes boxes smaller than drawn; each pixel is covered by its law."""
    weights, lam = draws(mixup_alpha=0.0, n=4000, size=(16, 16))
    rng = np.random.default_rng(0)
    cut = np.floor(16 * np.sqrt(1 - rng.random(40000))).astype(int)
    low = rng.integers(0, 16, (2, 40000)) - cut // 2
    y = np.arange(16)[:, None]
    rows, cols = ((y >= at) & (y < at + cut) for at in low)
    want = 1 - np.einsum("yn,xn->yx", rows * 1.0, cols * 1.0) / 40000
    got = weights.mean(0).reshape(16, 16)
    np.testing.assert_allclose(got, want, atol=5 * 0.5 / np.sqrt(4000))
    assert lam.mean() > 0.55


def drawn(n, size=(16, 16), key=KEY, **options):
    return jax.jit(lambda k: draw_mix(k, n, size, **options))(key)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_who_shares_a_draw(mode):
    for n in (8, 7):
        draw = drawn(n, mode=mode)
        mirrored = jax.tree.map(lambda value: value[::-1], draw)
        same = np.array(draw.share) == np.array(mirrored.share)
        if mode == "pair":
            assert jax.tree.all(jax.tree.map(np.array_equal, draw, mirrored))
            assert len(np.unique(draw.share)) == (n + 1) // 2
        else:
            assert same.sum() == n % 2  # the middle one is its own partner
            assert len(np.unique(draw.share)) == n
    whole = drawn(8)
    assert whole.share.shape == (1,)


@pytest.mark.parametrize("alpha", [0.4, 0.8, 1.0])
def test_law_of_lambda(alpha):
    """20,000 draws of mixup against Beta(alpha, alpha): p > 0.001."""
    draw = drawn(20_000, mode="elem", mixup_alpha=alpha, cutmix_alpha=0.0)
    np.testing.assert_array_equal(draw.weight, draw.share)
    result = stats.kstest(np.asarray(draw.share), stats.beta(alpha, alpha).cdf)
    assert result.pvalue > 1e-3


def test_law_of_lambda_where_both_are_on():
    """CutMix draws from its own Beta, mixup from the other: p > 0.001."""
    options = dict(mixup_alpha=0.5, cutmix_alpha=4.0, correct_lam=False)
    draw = drawn(20_000, mode="elem", **options)
    share, cut = np.asarray(draw.share), np.any(np.asarray(draw.box) != 0, axis=1)
    for chosen, alpha in ((cut, 4.0), (~cut, 0.5)):
        assert stats.kstest(share[chosen], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def reference_box(rng, h, w):
    """timm's box: area 1 - lambda about a uniform centre, clipped."""
    ratio = np.sqrt(1 - rng.random())
    cut = np.array([int(h * ratio), int(w * ratio)])
    low = np.array([rng.integers(h), rng.integers(w)]) - cut // 2
    (y0, x0), (y1, x1) = np.maximum(low, 0), np.minimum(low + cut, (h, w))
    return (y1 - y0) * (x1 - x0)


def test_law_of_the_box_area():
    """20,000 draws against NumPy's: p > 0.001."""
    draw = drawn(20_000, (30, 22), mode="elem", mixup_alpha=0.0)
    y0, y1, x0, x1 = np.asarray(draw.box).T
    area = (y1 - y0) * (x1 - x0)
    rng = np.random.default_rng(1)
    want = [reference_box(rng, 30, 22) for _ in range(20_000)]
    assert stats.ks_2samp(area, want).pvalue > 1e-3
    np.testing.assert_allclose(draw.share, 1 - area / (30 * 22), atol=1e-6)


def test_probabilities_of_each_image():
    """Applied, and cut, with the chances that were asked: binomial, p > 0.001."""
    n = 20_000
    draw = drawn(n, mode="elem", prob=0.6, switch_prob=0.3, cutmix_minmax=(0.2, 0.9))
    cut = np.any(np.asarray(draw.box) != 0, axis=1)
    mixed = np.asarray(draw.weight) < 1
    assert not np.any(cut & mixed)
    for count, prob in ((cut.sum(), 0.18), (mixed.sum(), 0.42)):
        assert stats.binomtest(int(count), n, prob).pvalue > 1e-3


def test_sides_between_fractions():
    """cutmix_minmax: int(10 * 0.25) to int(10 * 0.8) - 1, each as often, inside."""
    draw = drawn(
        20_000, (10, 20), mode="elem", cutmix_minmax=(0.25, 0.8), mixup_alpha=0.0,
        cutmix_alpha=0.0, correct_lam=False,
    )  # fmt: skip
    y0, y1, x0, x1 = np.asarray(draw.box).T
    assert min(y0.min(), x0.min()) == 0
    assert (y1.max(), x1.max()) == (9, 19)  # timm's exclusive end of the place
    for side, low, high in ((y1 - y0, 2, 8), (x1 - x0, 5, 16)):
        counts = np.bincount(side, minlength=high)
        assert counts[:low].sum() == 0
        assert stats.chisquare(counts[low:]).pvalue > 1e-3
    np.testing.assert_allclose(
        draw.share, 1 - (y1 - y0) * (x1 - x0) / 200, atol=1e-6
    )  # timm corrects it here always


def test_uncorrected_share_is_lambda():
    options = dict(mode="elem", mixup_alpha=0.0)
    corrected = drawn(500, correct_lam=True, **options)
    draw = drawn(500, correct_lam=False, **options)
    np.testing.assert_array_equal(draw.box, corrected.box)
    cut = 16 * np.sqrt(1 - np.asarray(draw.share))
    inner = (np.asarray(draw.box)[:, ::2] > 0).all(1)
    inner &= (np.asarray(draw.box)[:, 1::2] < 16).all(1)
    side = np.asarray(draw.box[:, 1] - draw.box[:, 0])
    np.testing.assert_array_equal(side[inner], np.floor(cut + 1e-4)[inner])
    assert not np.allclose(draw.share, corrected.share, atol=1e-3)


def test_dense_labels_go_along():
    """Label and dense label carry the mass of the pixels, on any grid."""
    own = jnp.eye(2)[jnp.array([0, 0, 1, 1])]
    images = jnp.broadcast_to(own[:, None, None, :1], (4, 12, 9, 1))
    for grid in ((12, 9), (4, 3), (5, 7)):
        dense = jnp.broadcast_to(own[:, None, None], (4, *grid, 2))
        mix = jax.jit(functools.partial(mixup_or_cutmix, mode="elem"))
        for seed in range(6):
            out, labels = mix(
                jax.random.key(seed), images, {"label": own, "dense": dense}
            )
            mass = out.mean(axis=(1, 2, 3))
            np.testing.assert_allclose(labels["label"][:, 0], mass, atol=1e-6)
            np.testing.assert_allclose(
                labels["dense"][..., 0].mean((1, 2)), mass, atol=1e-6
            )
            np.testing.assert_allclose(labels["dense"].sum(-1), 1, atol=1e-6)
            if grid == (12, 9):
                np.testing.assert_allclose(labels["dense"][..., :1], out, atol=1e-6)


def test_grey_levels_are_rounded():
    images, labels = batch(n=4)
    levels = (images * 255).astype(jnp.uint8)
    out, _ = mixup_with(levels, labels, jnp.float32(0.3))
    assert out.dtype == jnp.uint8
    values = np.asarray(levels, np.float32)
    want = np.rint(values * np.float32(0.3) + values[::-1] * np.float32(0.7))
    np.testing.assert_allclose(out, want, atol=1 / 255)
    cut, _ = cutmix_with(levels, labels, jnp.array([2, 5, 0, 10]))
    np.testing.assert_array_equal(cut[:, 2:5], levels[::-1, 2:5])
    np.testing.assert_array_equal(cut[:, 5:], levels[:, 5:])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_gradients_through_every_mode(mode):
    images, labels = batch()

    def value(x, y):
        out, target = mixup_or_cutmix(KEY, x, y, mode=mode)
        return jnp.square(out).sum() + jnp.square(target).sum()

    grads = jax.jit(jax.grad(value, argnums=(0, 1)))(images, labels)
    for grad in grads:
        assert bool(jnp.isfinite(grad).all())
        assert bool(jnp.any(grad))


def test_labels_of_another_shape():
    images, _ = batch()
    with pytest.raises(UserError, match=r"labels is float32\[8, 3, 4\]"):
        mixup_or_cutmix(KEY, images, jnp.zeros((8, 3, 4)))


def test_off_changes_nothing():
    images, labels = batch()
    for options in (
        dict(mixup_alpha=0.0, cutmix_alpha=0.0),
        dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.0),
    ):
        mix = functools.partial(mixup_or_cutmix, **options)
        out = jax.jit(mix)(KEY, images, labels)
        np.testing.assert_array_equal(out[0], images)
        np.testing.assert_array_equal(out[1], labels)


def test_blend_takes_one_map_for_each_image():
    images, labels = batch(n=4)
    lam = jnp.array([0.0, 1.0, 0.5, 0.25])
    weights = jnp.broadcast_to(lam[:, None, None], (4, 12, 10))
    out, target = blend(images, labels, weights, lam)
    np.testing.assert_array_equal(out[0], images[3])
    np.testing.assert_array_equal(out[1], images[1])
    np.testing.assert_allclose(target[3], 0.25 * labels[3] + 0.75 * labels[0])


@pytest.mark.parametrize(
    "options",
    [
        dict(mixup_alpha=-0.1),
        dict(cutmix_alpha=-1.0),
        dict(prob=1.5),
        dict(prob=-0.1),
        dict(switch_prob=2.0),
        dict(mode="element"),
        dict(cutmix_minmax=(0.5, 0.4)),
        dict(cutmix_minmax=(0.51, 0.52)),
    ],
    ids=str,
)
def test_mistakes(options):
    with pytest.raises(UserError, match=next(iter(options))):
        mixup_or_cutmix(KEY, *batch(), **options)

"""Policies: tables, levels, strings, and the laws of their draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from goldens import load_golden

from vit_jax_tricks import augment
from vit_jax_tricks.augment import levels, operations, warp
from vit_jax_tricks.augment.auto_augment import _any_depth
from vit_jax_tricks.augment.color_jitter import draw_color_jitter
from vit_jax_tricks.augment.parse import CHOICES, parse_aug_mix, parse_policy
from vit_jax_tricks.augment.policy import pick_interpolation
from vit_jax_tricks.errors import UserError


MANIFEST = load_golden("augment/levels")[0]
N = 20_000
KEYS = jax.random.split(jax.random.key(0), N)
# The laws are tested with fixed seeds: a right one fails a test once in 10,000 seeds.
P_VALUE = 1e-4


@pytest.mark.parametrize("name", [n for n, rows in MANIFEST["levels"].items() if rows])
def test_levels_of_timm(name):
    """Arguments at half levels, exactly when fixed and in float32 when drawn."""
    rows = MANIFEST["levels"][name]
    numbers, want = np.array([(level, args[0]) for level, args in rows]).T
    _, amount = levels.timm()[name]
    size = (224, 224)  # translate_const 100
    if name.endswith("Rel"):
        want = want * 224
    if name == "Desaturate":
        want = 1 - want  # Pillow's factor
    if name == "GaussianBlurRand":
        want = 2 * want  # the largest sigma
    one = jnp.float32(1)[None]
    fixed = [amount(levels.Draw(level, 1.0, one, size)) for level in numbers]
    exact = 0.0 if name != "GaussianBlurRand" else 1e-7
    np.testing.assert_allclose(np.stack(fixed).ravel(), want, rtol=1e-15, atol=exact)
    drawn = amount(levels.Draw(jnp.asarray(numbers, jnp.float32), 1.0, one, size))
    np.testing.assert_allclose(drawn, want, rtol=1e-6, atol=1e-6)
    negative = amount(levels.Draw(np.float64(9), -1.0, one, size))
    signed = ("Rotate", "Shear", "Translate", "Increasing")
    if not any(word in name for word in signed) or name.startswith(("Post", "Sol")):
        np.testing.assert_array_equal(negative, fixed[18])
    elif name.endswith("Increasing"):
        np.testing.assert_allclose(negative, 2 - want[18])
    else:
        np.testing.assert_array_equal(negative, -fixed[18])


def test_levels_of_torchvision():
    """Bins 0..9 of AutoAugment, and the ends of the wide family."""

    def at(name, level, family, sign=1.0, size=(100, 331)):
        drawn = levels.Draw(np.float64(level), sign, jnp.zeros(1), size)
        return family[name][1](drawn)

    ten = levels.torchvision(bins=10)
    bits = [at("Posterize", i, ten) for i in range(10)]
    assert bits == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert at("Solarize", 3, ten) == 170
    np.testing.assert_allclose(at("Color", 6, ten), 1.6)
    np.testing.assert_allclose(at("Color", 6, ten, -1.0), 0.4)
    np.testing.assert_allclose(at("Rotate", 3, ten), 10)
    np.testing.assert_allclose(at("ShearY", 9, ten, -1.0), -0.3)
    assert at("TranslateX", 4, ten) == -66  # int(66.67) to the right
    assert at("TranslateY", 4, ten) == -20
    wide = parse_policy("trivial").family
    assert at("Posterize", 30, wide) == 2
    assert at("Rotate", 30, wide) == 135
    assert at("TranslateY", 30, wide) == -32
    np.testing.assert_allclose(at("Brightness", 30, wide), 1.99)
    rand = parse_policy("torchvision-n2-m9-bins31")
    want = dict(ShearX=0.09, Rotate=9, Contrast=1.27, Posterize=7, Solarize=178.5)
    for name, amount in want.items():
        np.testing.assert_allclose(at(name, 9, rand.family), amount)
    assert len(rand.rows) == 14


@pytest.mark.parametrize("name", ["original", "originalr", "v0", "v0r"])
def test_tables_of_timm(name):
    policy = parse_policy(name)
    want = MANIFEST["parsed"][f"autoaugment {name}"]
    assert len(policy.rows) == len(want) == 25
    for row, other in zip(policy.rows, want, strict=True):
        for step, (op, prob, level) in zip(row, other, strict=True):
            assert (step.name, step.prob) == (op, prob)
            if op not in ("Equalize", "AutoContrast", "Invert"):
                assert step.level == level


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_tables_of_torchvision(name):
    policy = parse_policy(name)
    assert [len(row) for row in policy.rows] == [2] * 25
    assert policy.highest == 9
    first = {"imagenet": "Posterize", "cifar10": "Invert", "svhn": "ShearX"}
    last = {"imagenet": "Equalize", "cifar10": "AutoContrast", "svhn": "Invert"}
    assert policy.rows[0][0].name == first[name]
    assert policy.rows[-1][-1].name == last[name]


@pytest.mark.parametrize("text", [t for t in MANIFEST["parsed"] if " " not in t])
def test_strings_of_timm(text):
    want = MANIFEST["parsed"][text]
    rows = []
    for line in want.splitlines()[1:]:
        parts = line.strip("\t[]()").removeprefix("AugmentOp(").split(", ")
        rows.append(dict(part.strip("()]").split("=") for part in parts))
    policy = parse_aug_mix(text).policy if "mix" in text else parse_policy(text)
    assert [row[0].name for row in policy.rows] == [row["name"] for row in rows]
    for (step,), row in zip(policy.rows, rows, strict=True):
        assert (step.prob, step.level) == (float(row["p"]), float(row["m"]))
        assert policy.std == float(row["mstd"])
        assert policy.highest == float(row.get("mmax", 10))
    if "(n=" in want:
        assert policy.rounds == int(want.split("(n=")[1][0])


def test_other_strings():
    assert parse_policy("rand-m9-mstd101").std == math.inf
    assert parse_policy("rand-m9-inc0").rows[4][0].name == "Posterize"
    assert parse_policy("original-mstd0.5").std == 0.5
    weighted = parse_policy("rand-m5-tweights")
    assert weighted.weights == tuple(CHOICES["weights"].values())
    assert parse_policy("rand-n3-m9-mstd0.5-inc1").slots == 3
    mix = parse_aug_mix("augmix-m5-w4-d2-a0.5")
    assert (mix.width, mix.depth, mix.alpha, mix.policy.slots) == (4, 2, 0.5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnd-m9", 'Did you mean "rand"'),
        ("imagnet", 'Did you mean "imagenet"'),
        ("rand-m9-mstd", '"mstd" needs a number, such as mstd1'),
        ("rand-x3", '"x3" is unknown; expected sections of mNUMBER, nNUMBER'),
        ("rand-n1.5", '"n1.5" needs a whole number'),
        ("rand-m9-m8", '"m8" is given twice'),
        ("rand-n0", "n0 must be at least 1"),
        ("rand-p2", "p2 is a probability"),
        ("rand-tweight", 'Did you mean "weights"'),
        ("rand-n9-t3aw-inc1-n2", '"n2" is given twice'),
        ("rand-n15-t3aw", "n15 is more than the 14 operations"),
        ("original-m3", "expected sections of mstdNUMBER"),
        ("torchvision-m31", "outside 0..30"),
        ("trivial-m3", '"trivial-m3" is unknown'),
    ],
)
def test_mistakes_in_strings(text, message):
    with pytest.raises(UserError) as caught:
        parse_policy(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["augmix-w0", "augmix-a0", "augmix-m3-q1", "mix-m3"])
def test_mistakes_in_aug_mix(text):
    with pytest.raises(UserError, match=text):
        parse_aug_mix(text)


def sample(policy, keys=KEYS, size=(224, 224)):
    """Operation names and amounts of N images, [N, slots]."""
    draw = jax.jit(lambda keys: augment.draw(policy, keys, size))
    op, amount = map(np.asarray, draw(keys))
    return np.array(operations.OPERATIONS)[op], amount


def check_shares(counts, shares):
    """A chi-square test of counts against the law's shares."""
    total = sum(counts)
    expected = np.asarray(shares) * total
    assert scipy.stats.chisquare(counts, expected).pvalue > P_VALUE, (counts, expected)


def check_uniform(values, low, high):
    law = scipy.stats.uniform(low, high - low)
    assert scipy.stats.kstest(values, law.cdf).pvalue > P_VALUE


def test_law_of_deits_rand_augment():
    policy = parse_policy("rand-m9-mstd0.5-inc1")
    op, amount = sample(policy)
    chosen = operations.OPERATIONS[1:]
    ops = [policy.family[row[0].name][0] for row in policy.rows]
    assert len(set(ops)) == 15
    names = ["identity", *ops]
    assert set(names) <= {"identity", *chosen}
    for slot in range(2):  # each applied with probability 1/2, 15 equal shares
        counts = [np.sum(op[:, slot] == name) for name in names]
        check_shares(counts, [0.5] + [1 / 30] * 15)
    pairs = (op[:, 0] != "identity").astype(int) * 2 + (op[:, 1] != "identity")
    check_shares(np.bincount(pairs), [0.25] * 4)  # independent
    both = op[op[:, 0] == "rotate", 1]
    assert np.sum(both == "rotate") > 0  # with replacement

    angle = amount[op == "rotate"]
    level = np.abs(angle) / 3
    check_shares([np.sum(angle > 0), np.sum(angle < 0)], [0.5, 0.5])
    capped = level > 10 - 1e-5
    over = scipy.stats.norm.sf(2)
    check_shares([np.sum(capped), np.sum(~capped)], [over, 1 - over])
    law = scipy.stats.truncnorm(-18, 2, loc=9, scale=0.5)
    assert scipy.stats.kstest(level[~capped], law.cdf).pvalue > P_VALUE
    bits = amount[op == "posterize"]  # 4 - int(0.4 level): 0 only at level 10
    two = scipy.stats.norm.cdf(-3)  # below level 7.5: two bits
    none, total = np.sum(bits == 0), len(bits)
    assert scipy.stats.binomtest(int(none), total, over).pvalue > P_VALUE
    assert scipy.stats.binomtest(int(np.sum(bits == 2)), total, two).pvalue > P_VALUE
    assert set(bits) <= {0, 1, 2}


def test_law_of_levels():
    """Uniform up to the level, a higher highest level, and no noise."""
    op, amount = sample(parse_policy("rand-m8-mstd200-p1.0"), KEYS[:8000])
    check_uniform(np.abs(amount[op == "rotate"]) / 3, 0, 8)
    op, amount = sample(parse_policy("rand-m15-mmax20-p1"), KEYS[:500])
    np.testing.assert_allclose(np.abs(amount[op == "rotate"]), 45)
    np.testing.assert_allclose(amount[op == "brightness"], 2.8, rtol=1e-6)


def test_law_of_auto_augment():
    """Sub-policy 15 of ImageNet's: Rotate .8 8, Color 1.0 2, both or the second."""
    policy = parse_policy("imagenet")
    op, amount = sample(policy)
    marked = (op[:, 1] == "saturation") & np.isclose(np.abs(amount[:, 1] - 1), 0.2)
    assert scipy.stats.binomtest(int(marked.sum()), N, 1 / 25).pvalue > P_VALUE
    first = op[marked, 0]
    rotated = int(np.sum(first == "rotate"))
    assert set(first) == {"rotate", "identity"}
    assert scipy.stats.binomtest(rotated, len(first), 0.8).pvalue > P_VALUE
    np.testing.assert_allclose(
        np.abs(amount[marked, 0][first == "rotate"]), 80 / 3, rtol=1e-6
    )
    share = np.mean([row[0].prob for row in policy.rows])
    applied = int(np.sum(op[:, 0] != "identity"))
    assert scipy.stats.binomtest(applied, N, share).pvalue > P_VALUE


def test_law_of_weights_without_replacement():
    policy = parse_policy("rand-m5-n2-p1-tweights")
    op, _ = sample(policy)
    names = [policy.family[row[0].name][0] for row in policy.rows]
    weights = np.array(policy.weights) / sum(policy.weights)
    check_shares([np.sum(op[:, 0] == name) for name in names], weights)
    second = [
        sum(w * weights[j] / (1 - w) for i, w in enumerate(weights) if i != j)
        for j in range(len(weights))
    ]
    check_shares([np.sum(op[:, 1] == name) for name in names], second)
    assert not np.any(op[:, 0] == op[:, 1])


def test_law_of_trivial_augment():
    policy = parse_policy("trivial")
    op, amount = sample(policy)
    ops = [policy.family[row[0].name][0] for row in policy.rows]
    check_shares([np.sum(op == name) for name in ops], [1 / 14] * 14)
    threshold = amount[op == "solarize"]
    bins = np.round((255 - threshold) / 8.5).astype(int)
    check_shares(np.bincount(bins, minlength=31), [1 / 31] * 31)


def test_law_of_three_augment():
    op, amount = sample(parse_policy("3a"))
    counts = [np.sum(op == n) for n in ("solarize", "saturation", "gaussian_blur")]
    check_shares(counts, [1 / 3] * 3)
    assert set(amount[op == "solarize"]) == {128}
    assert set(amount[op == "saturation"]) == {0}
    check_uniform(amount[op == "gaussian_blur"], 0.1, 2)


def test_random_interpolation_is_bilinear_or_bicubic():
    picked = np.asarray(jax.jit(lambda k: pick_interpolation("random", k, 2))(KEYS))
    assert tuple(warp.INTERPOLATIONS[1:3]) == ("bilinear", "bicubic")
    for slot in picked.T:
        check_shares([np.sum(slot == 1), np.sum(slot == 2)], [1 / 2, 1 / 2])


def test_law_of_the_depth_of_aug_mix():
    none, *counts = np.bincount(jax.jit(_any_depth)(KEYS))
    assert none == 0
    check_shares(counts, [1 / 3] * 3)


def test_law_of_color_jitter():
    strengths = dict(brightness=0.4, contrast=0.4, saturation=1.5, hue=0.1)
    index = jnp.arange(N)
    draw = jax.jit(lambda i: draw_color_jitter(jax.random.key(1), i, strengths, 0.8))
    op, amount = map(np.asarray, draw(index))
    applied = op[:, 0] > 0
    assert np.all((op > 0) == applied[:, None])
    assert scipy.stats.binomtest(int(applied.sum()), N, 0.8).pvalue > P_VALUE
    orders, counts = np.unique(op[applied], axis=0, return_counts=True)
    assert len(orders) == 24
    check_shares(counts, [1 / 24] * 24)
    ranges = dict(
        brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0, 2.5), hue=(-0.1, 0.1)
    )
    for name, (low, high) in ranges.items():
        check_uniform(amount[op == operations.code(name)], low, high)

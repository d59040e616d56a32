"""Small laws of single functions, each of which a one-line mistake would break."""

import shutil
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_goldens import jit_once
from small_models import fill

from vit_jax_tricks import augment, losses, state
from vit_jax_tricks.compress import Spec, calibrate, dequantize, standard_rules
from vit_jax_tricks.compress.quant.grids import grid
from vit_jax_tricks.compress.quant.ranges import affine_range
from vit_jax_tricks.export.proof import compare
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.layers.functional import layer_scale_start
from vit_jax_tricks.models.layers.gated_attention import GatedPositionalAttention
from vit_jax_tricks.models.layers.tokens_to_token import TokenPerformer
from vit_jax_tricks.objectives.distillation import Distillation
from vit_jax_tricks.storage import checkpoint


KEY = jax.random.key(4)


def draws(batch, mixup, cutmix, mode):
    """`draw_mix` for images of 32 x 32 pixels."""
    alphas = {"mixup_alpha": mixup, "cutmix_alpha": cutmix}
    draw = partial(augment.draw_mix, batch=batch, size=(32, 32), mode=mode, **alphas)
    return jit_once(draw)(KEY)


@pytest.mark.parametrize("mode", ["pair", "elem"])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_a_pair_shares_its_draw_and_an_element_has_its_own(mode, alphas):
    """timm draws for the first half of a batch and mirrors it in pair mode."""
    draw = draws(8, *alphas, mode)
    for part in map(np.asarray, draw):
        rows = part.reshape(8, -1)
        if len(np.unique(rows)) > 1:
            assert (rows == rows[::-1]).all() == (mode == "pair")
    shares = np.asarray(draw.share)
    assert len(np.unique(shares)) == (4 if mode == "pair" else 8)


def test_an_odd_batch_in_pairs_has_a_middle_of_its_own():
    shares = np.asarray(draws(5, 0.8, 0.0, "pair").share)
    np.testing.assert_array_equal(shares, shares[::-1])
    assert len(np.unique(shares)) == 3


def test_a_flip_depends_on_the_example_not_on_its_place():
    index = np.random.default_rng(0).permutation(500)[:64].astype(np.int32)
    flips = np.asarray(augment.random_flips(KEY, index))
    np.testing.assert_array_equal(augment.random_flips(KEY, index[::-1]), flips[::-1])
    np.testing.assert_array_equal(augment.random_flips(KEY, index[7:20]), flips[7:20])
    assert 0.3 < flips.mean() < 0.7


@pytest.mark.slow
def test_aug_mix_gives_the_chains_their_share():
    """No pixel moves by more than m times all grey levels, m the share of chains."""
    images = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), np.uint8)
    index = np.arange(64, dtype=np.int32)
    mix = partial(augment.aug_mix, policy="augmix-m10-w1-d1")
    apply = jit_once(lambda images, index: mix(KEY, images, index))
    out = np.asarray(apply(images, index), np.int32)
    moved = np.abs(out - images).reshape(64, -1).max(1)

    def drawn(i):
        return jax.random.beta(jax.random.split(jax.random.fold_in(KEY, i), 3)[2], 1, 1)

    share = np.asarray(jit_once(jax.vmap(drawn))(index))
    assert (share < 0.1).sum() > 2
    assert (moved <= 255 * share + 1).all()


def test_the_floor_of_jensen_shannon_is_timms():
    """100,000 classes of 0.5e-7 each: their mixture counts as 1e-7."""
    logits = np.zeros((2, 1, 100_001), np.float64)
    logits[:, :, 0] = np.log(2e7 - 1e5)
    logits[1] += np.random.default_rng(0).normal(0, 0.1, logits[1].shape)
    p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    mixture = np.maximum(p.mean(0), 1e-7)
    want = (p * (np.log(p) - np.log(mixture))).sum(-1).mean(0)
    without = (p * (np.log(p) - np.log(p.mean(0)))).sum(-1).mean(0)
    found = losses.jensen_shannon(logits=jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(found, want, rtol=1e-2)
    assert abs(without - want) > 0.5 * abs(want)


def test_layer_scale_starts_by_depth():
    """Touvron et al., 2021: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond."""
    depths = (1, 12, 18, 19, 24, 25, 48)
    want = [0.1, 0.1, 0.1, 1e-5, 1e-5, 1e-6, 1e-6]
    assert [layer_scale_start(depth) for depth in depths] == want


def both_modes(layer, x, *keys):
    """A layer's output in evaluation, without a key, and in training with each key."""
    shapes = jax.eval_shape(lambda: layer.init(KEY, x, False))
    noise = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: noise.standard_normal(leaf.shape).astype(leaf.dtype), shapes
    )
    evaluate = jit_once(lambda variables: layer.apply(variables, x, False))
    trained = jit_once(
        lambda variables, key: layer.apply(variables, x, True, rngs={"dropout": key})
    )
    return [
        np.asarray(evaluate(variables)),
        *(np.asarray(trained(variables, key)) for key in keys),
    ]


def test_gated_attention_drops_weights_in_training_alone():
    x = jax.random.normal(KEY, (2, 4, 8))
    fields = dict(num_heads=2, head_dim=4, grid=(2, 2))
    (plain,) = both_modes(GatedPositionalAttention(**fields), x)
    layer = GatedPositionalAttention(**fields, attn_drop=0.5)
    found, dropped = both_modes(layer, x, KEY)
    np.testing.assert_array_equal(found, plain)
    assert np.abs(dropped - plain).max() > 0.1


def test_the_performer_drops_a_tenth_in_training_alone():
    x = jax.random.normal(KEY, (4, 16, 6))
    plain, dropped, other = both_modes(TokenPerformer(8), x, KEY, jax.random.key(9))
    assert np.abs(dropped - plain).max() > 0.1
    assert np.abs(dropped - other).max() > 0.1


@pytest.mark.parametrize("name", ["uint8", "int8", "int4"])
@pytest.mark.parametrize("ends", [(2.0, 5.0), (-5.0, -2.0), (-1.0, 3.0), (0.0, 0.0)])
def test_an_affine_range_has_zero_on_its_grid(name, ends):
    """Zero is a number of the grid even where no value was zero."""
    numbers = grid(name)
    found = affine_range(*map(jnp.float32, ends), grid=numbers)
    zero = int(found.zero_point)
    assert numbers.low <= zero <= numbers.high
    assert float(dequantize(jnp.int32(zero), found.scale, zero)) == 0
    low, high = min(ends[0], 0), max(ends[1], 0)
    if low < high:
        step = (high - low) / (numbers.high - numbers.low)
        assert float(found.scale) == pytest.approx(step)
        assert zero == round(numbers.low - low / step)


def test_calibration_sees_the_model_as_in_evaluation():
    """Dropout and drop path, which need a key in training, change no range."""
    fields = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    rates = dict(proj_drop_rate=0.5, pos_drop_rate=0.5)
    rates |= dict(drop_path_rate=0.5, drop_path_decay="constant")
    plain = create_model("vit_tiny_patch16_224", 3, **fields)
    regular = create_model("vit_tiny_patch16_224", 3, **fields, **rates)
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    variables = fill(plain, images)
    rules = standard_rules(None, Spec("int8"))
    want, found = (calibrate(m, variables, [images], rules) for m in (plain, regular))
    assert found.keys() == want.keys()
    for name, place in found.items():
        assert float(place.scale) == float(want[name].scale), name


class Twice(nn.Module):
    """One layer, which takes the images and then a hundredth of them."""

    @nn.compact
    def __call__(self, images, train=False):
        layer = nn.Dense(3, name="fc")
        return (layer(images) + layer(images / 100)).mean((1, 2)), {}


def test_calibration_sees_every_call_of_a_layer():
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    rules = (("fc/input", Spec("int8")), (".*", None))
    found = calibrate(Twice(), fill(Twice(), images), [images], rules)
    largest = float(jnp.abs(images).max())
    assert float(found["fc/input"].scale) == pytest.approx(largest / 127, rel=1e-6)


def test_several_teachers_losses_are_averaged():
    rng = np.random.default_rng(0)
    z, *teachers = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in "abcd")
    for name in ("soft", "hard"):
        term = Distillation(name=name)

        def loss(targets, term=term):
            return np.asarray(term(logits=z, teacher_logits=targets))

        want = np.mean([loss(teacher) for teacher in teachers], axis=0)
        np.testing.assert_allclose(loss(jnp.stack(teachers)), want, rtol=1e-6)
        assert (want > 0.1).any()


def test_a_comparison_reports_a_known_difference():
    reference = np.float32([[0, 1, 2], [3, 1, 0], [0, 5, 1], [0, 0, 7]])
    file = reference.copy()
    file[1] = [0, 1, 3.5]  # class 2 instead of 0
    file[0, 0] -= 0.25
    found = compare(file, reference, np.array([2, 0, 1, 0]))
    assert found == {
        "max_difference": 3.5,
        "top1_agreement": 0.75,
        "accuracy": 0.5,
        "accuracy_reference": 0.75,
    }
    assert compare(file, reference).keys() == {"max_difference", "top1_agreement"}


def saved(folder, value):
    """A sealed checkpoint of step 1, whose parameters all have one value."""
    made = state.create(
        {"params": {"w": jnp.full((3, 4), value)}},
        optimizer=optax.sgd(1e-3),
        key=KEY,
        ema=False,
    ).replace(step=jnp.int32(1))
    checkpointer = checkpoint.Checkpointer(folder, keep=2, say=print)
    checkpointer.save(made, {})
    checkpointer.close()
    return folder / "1"


def test_other_leaves_under_a_sound_manifest_are_refused(tmp_path):
    """Every file is as its manifest says, but the arrays are another checkpoint's."""
    one, other = (saved(tmp_path / name, v) for name, v in (("one", 1.0), ("two", 2.0)))
    found = checkpoint.read_variables(one)
    np.testing.assert_array_equal(found["params"]["w"], np.ones((3, 4)))
    shutil.rmtree(one / "state")
    shutil.copytree(other / "state", one / "state")
    checkpoint.write_manifest(one)
    with pytest.raises(checkpoint.DamagedError, match="params/w"):
        checkpoint.read_variables(one)

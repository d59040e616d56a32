"""Properties of T2T-ViT beyond its reference values."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once, macs
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize import resize_positions


pytestmark = pytest.mark.slow


TINY = {
    "img_size": 32,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "token_dim": 8,
}
KEY = jax.random.key(0)


def make(**overrides):
    return create_model("t2t_vit_7", 10, **TINY | overrides)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


@pytest.fixture(scope="module")
def variables(images):
    return fill(make(), images)


def test_scan_and_remat_equal_the_unrolled_model_in_training(images):
    model = make(tokens_type="convolution")
    variables = fill(model, images)

    def loss(params, model):
        logits = model.apply({"params": params}, images, train=True)[0]
        return (logits**2).sum()

    grad = jit_once(jax.value_and_grad(loss), static_argnums=1)
    value, grads = grad(variables["params"], model)
    params = stack_blocks(variables["params"])
    assert params["blocks"]["norm1"]["scale"].shape == (2, 16)
    scanned, stacked = grad(params, model.clone(scan=True, remat=True))
    chex.assert_trees_all_close(value, scanned, rtol=1e-5)
    chex.assert_trees_all_close(unstack_blocks(stacked), grads, atol=1e-4, rtol=1e-4)


def test_training_leaves_the_random_features_as_they_are(variables, images):
    model = make(drop_path_rate=0.2)
    _, state = apply(model, variables, images, train=True, mutable=["batch_stats"])
    chex.assert_trees_all_equal(state["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_every_dropout_acts_in_training_only(rate, images):
    model = make(tokens_type="convolution", **{rate: 0.5})
    variables = fill(model, images)

    def run(seed, train):
        return apply(model, variables, images, seed, train=train)[0]

    assert jnp.abs(run(0, True) - run(1, True)).max() > 1e-4
    chex.assert_trees_all_equal(run(0, True), run(0, True))
    chex.assert_trees_all_equal(run(0, False), run(1, False))


def test_qk_scale_is_that_of_the_blocks(images):
    model = make(tokens_type="convolution", depth=1)
    variables = fill(model, images)
    logits = apply(model, variables, images)[0]
    same = apply(model.clone(qk_scale=8**-0.5), variables, images)[0]
    other = apply(model.clone(qk_scale=16**-0.5), variables, images)[0]
    chex.assert_trees_all_equal(logits, same)
    assert jnp.abs(logits - other).max() > 1e-5


def test_initialisation_is_the_reference_s():
    """N(0, 0.02) for linear layers and the class token, nothing in biases."""
    model = create_model("t2t_vit_14", img_size=16, depth=1)
    params = jit_once(model.init)(KEY, jnp.zeros((1, 16, 16, 3)))["params"]
    layer = params["tokens_to_token"]["attention2"]
    block = params["blocks_0"]
    for kernel in (
        *(layer[name]["kernel"] for name in ("kqv", "proj", "mlp_0", "mlp_2")),
        params["tokens_to_token"]["project"]["kernel"],
        block["attn"]["qkv"]["kernel"],
        block["mlp"]["fc2"]["kernel"],
        params["head"]["kernel"],
        params["cls_token"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.1)
    assert "bias" not in block["attn"]["qkv"]
    for part in (layer["kqv"], layer["norm1"], params["head"]):
        assert not part["bias"].any()
    assert (layer["norm1"]["scale"] == 1).all()


def test_positions_are_computed_for_the_size_or_resampled_from_another():
    table = create_model("t2t_vit_14").positions
    assert table.shape == (1, 197, 384)
    large = create_model("t2t_vit_14", img_size=384)
    assert large.positions.shape == (1, 577, 384)
    np.testing.assert_array_equal(large.positions[:, :197], table)
    resampled = large.clone(pos_img_size=224).positions
    expected = resize_positions(table, (24, 24), prefix=1, plain=True)
    np.testing.assert_array_equal(resampled, expected)
    assert np.abs(resampled - large.positions).max() > 0.5


def test_a_file_s_position_table_must_be_the_model_s(variables):
    weights = reference_arrays(variables, "t2t_vit_7")
    weights["pos_embed"] = make().positions
    _, report = load_arrays(make(), weights)
    assert "pos_embed" in report.loaded
    assert not report.unused
    with pytest.raises(
        UserError, match=r"\(1, 5, 16\).*\(1, 17, 16\).*pos_img_size=32"
    ):
        load_arrays(make(img_size=64), weights)
    resampled = make(img_size=64, pos_img_size=32)
    for table in (resampled.sinusoids, resampled.positions):
        load_arrays(resampled, {**weights, "pos_embed": table})
    with pytest.raises(UserError, match="create it with"):
        load_arrays(make(), {**weights, "pos_embed": make().positions + 0.1})


@pytest.mark.parametrize("tokens", ["performer", "transformer", "convolution"])
def test_weights_go_out_and_in_under_their_own_names(tokens, images):
    model = make(tokens_type=tokens)
    variables = fill(model, images)
    weights = reference_arrays(variables, "t2t_vit_7")
    assert all("." in key or key == "cls_token" for key in weights)
    again, report = load_arrays(model, weights)
    assert not report.reset
    chex.assert_trees_all_equal(again, variables)


def test_rectangular_images_and_grey_ones():
    model = make(img_size=(32, 48), in_chans=1, tokens_type="transformer")
    images = jnp.ones((2, 32, 48, 1))
    variables = fill(model, images)
    assert apply(model, variables, images)[1]["tokens"].shape == (2, 1 + 6, 16)


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("t2t_vit_19", 224, 8.480),
        ("t2t_vit_t_24", 224, 14.967),
        ("t2t_vit_14_resnext", 224, 4.783),
        ("t2t_vit_14_wide", 224, 5.229),
        ("t2t_vit_14", 384, 16.370),
    ],
)
def test_macs_of_the_other_variants(name, size, giga):
    model = create_model(name, img_size=size, scan=True)
    assert macs(model) / 1e9 == pytest.approx(giga, abs=6e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 40}, "img_size=40 is not divisible.*img_size=32"),
        ({"img_size": 8}, "img_size=16"),
        ({"pos_img_size": 100}, "pos_img_size=100 is not.*pos_img_size=96"),
        ({"tokens_type": "conv"}, "performer, transformer, convolution"),
        ({"num_heads": 3}, "not divisible by num_heads=3"),
        ({"token_dim": 1}, "token_dim=1"),
        ({"drop_path_rate": 1.5}, "between 0 and 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"patch_size": 16}, 'no override "patch_size"'),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        make(**overrides)
    assert "\n" not in str(error.value)

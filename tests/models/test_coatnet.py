"""Properties of CoAtNet beyond its reference values."""

import json
from functools import partial

import chex
import coatnet_goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden
from model_goldens import assert_close, jit_once

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.models.layers import initializers
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.optim.param_groups import describe
from vit_jax_tricks.pretrained.coatnet_rules import COATNET
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias
from vit_jax_tricks.pretrained.rules import find_path
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY = {
    "img_size": 32,
    "embed_dim": (16, 32),
    "depths": (3, 3),
    "block_type": ("C", "T"),
    "stem_width": (8, 16),
    "transformer_dim_head": 16,
}
# One transformer block on a 4x4 map.
ONE = {**TINY, "img_size": 16, "embed_dim": (16,), "depths": (1,), "block_type": ("T",)}
KEY = jax.random.key(0)


def fill(model, batch=2):
    """Variables far from zero, and images."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, *model.image_shape), np.float32))
    shapes = jax.eval_shape(model.init, KEY, images)

    def value(path, leaf):
        noise = 0.1 * rng.standard_normal(leaf.shape, np.float32)
        return noise + np.float32(path[-1].key in ("scale", "var", "gamma"))

    return jax.device_put(jax.tree_util.tree_map_with_path(value, shapes)), images


def train(model, variables, images, key=KEY):
    """Logits and new statistics of a training step's forward pass."""
    run = partial(
        model.apply, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    (logits, _), state = jit_once(run)(variables, images)
    return logits, state["batch_stats"]


@pytest.mark.parametrize("case", coatnet_goldens.SMALL[:4], ids=str)
def test_training_uses_and_moves_the_statistics_as_pytorch(case):
    model, variables, images, _, arrays = case.build("float32")
    logits, stats = train(model, variables, images)
    if model.transformer_rel_pos_type != "mlp":  # whose hidden units are dropped out
        assert_close(logits, arrays["train_logits"], 2e-5)
    moved = reference_arrays({**variables, "batch_stats": stats}, case.name)
    checked = [key for key in arrays if key.startswith("after_train:")]
    assert checked
    for key in checked:
        assert_close(moved[key.removeprefix("after_train:")], arrays[key], 2e-6)


def test_position_mlp_without_its_dropout_trains_as_timm_s():
    """The reference file was made without it."""
    case = next(c for c in coatnet_goldens.SMALL if str(c) == "small_coatnet_mixed")
    model, variables, images, _, arrays = case.build(
        "float32", transformer_rel_pos_drop=0.0
    )
    logits, _ = train(model, variables, images)
    assert_close(logits, arrays["train_logits"], 2e-5)


def test_scan_and_remat_equal_the_unrolled_model_in_training():
    model = create_model("coatnet_0_rw_224", 10, **TINY)
    variables, images = fill(model)
    stacked = {k: stack_blocks(v, first=1) for k, v in variables.items()}
    expected = train(model, variables, images)
    for remat in (False, True):
        logits, stats = train(model.clone(scan=True, remat=remat), stacked, images)
        np.testing.assert_allclose(logits, expected[0], atol=1e-5)
        stats = unstack_blocks(stats, numbering=stacked["params"])
        chex.assert_trees_all_close(stats, expected[1], atol=1e-6, rtol=0)


def test_stacking_from_the_second_block_and_back():
    kinds = {"block_type": (("T", "C"), "T")}  # the first block has no statistics
    model = create_model("coatnet_0_rw_224", 10, **TINY | kinds)
    variables, _ = fill(model)
    stacked = {k: stack_blocks(v, first=1) for k, v in variables.items()}
    for stage in ("stages_0", "stages_1"):
        assert set(stacked["params"][stage]) == {"blocks_0", "blocks"}
    assert set(stacked["batch_stats"]["stages_0"]) == {"blocks"}
    chex.assert_trees_all_equal(flatten(stacked), flatten(variables))
    scanned = jax.eval_shape(model.clone(scan=True).init, KEY, jnp.ones((1, 32, 32, 3)))
    chex.assert_trees_all_equal_shapes(scanned, stacked)


@pytest.mark.parametrize(
    "rate",
    [
        "drop_rate",
        "drop_path_rate",
        "transformer_attn_drop",
        "transformer_proj_drop",
        "transformer_rel_pos_drop",
    ],
)
def test_every_dropout_acts_in_training_only(rate):
    options = {"transformer_rel_pos_type": "mlp", "transformer_rel_pos_drop": 0.0}
    model = create_model("coatnet_0_rw_224", 10, **ONE | options | {rate: 0.5})
    model = model.clone(depths=(2,))  # the second block has the full drop path rate
    variables, images = fill(model, batch=8)

    @partial(jit_once, static_argnums=0)
    def run(train, key):
        rngs = {"dropout": key}
        apply = partial(model.apply, mutable=["batch_stats"], rngs=rngs)
        return apply(variables, images, train=train)[0][0]

    one, two = (run(True, jax.random.key(seed)) for seed in range(2))
    assert jnp.abs(one - two).max() > 1e-4
    chex.assert_trees_all_equal(run(False, KEY), run(False, jax.random.key(1)))


@pytest.mark.parametrize("kind", ["bias", "bias_tf"])
def test_bias_tables_of_another_image_size_are_resampled(kind):
    small = create_model(
        "coatnet_0_224", 10, **ONE | {"transformer_rel_pos_type": kind}
    )
    large = small.clone(img_size=(32, 16))
    variables, _ = fill(small)
    arrays = reference_arrays(variables, "coatnet_0_224")
    loaded, report = load_arrays(large, arrays)
    name = "stages.0.blocks.0.attn.rel_pos.relative_position_bias_table"
    assert [entry.split()[0] for entry in report.resized] == [name]
    table = loaded["params"]["stages_0"]["blocks_0"]["attn"]["rel_pos"]
    table = table["relative_position_bias_table"]
    old = arrays[name] if kind == "bias" else arrays[name].reshape(1, -1).T
    expected = resize_relative_bias(old, (8, 4))
    if kind == "bias_tf":
        expected = expected.T.reshape(1, 15, 7)
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_positions_by_an_mlp_suit_any_image_size():
    options = {"transformer_rel_pos_type": "mlp"}
    model = create_model("coatnet_0_224", 10, **ONE | options)
    variables, _ = fill(model)
    larger = model.clone(img_size=24)
    assert larger.maps == [(6, 6)]
    logits, aux = jit_once(larger.apply)(variables, jnp.ones((1, 24, 24, 3)))
    assert jnp.isfinite(logits).all()
    assert aux["tokens"].shape == (1, 36, 16)


def test_initialisation_is_the_reference_s():
    """timm's "vit_eff": EfficientNet's for convolutions, Xavier's for transformers."""
    options = {"depths": (2, 1), "head_hidden_size": 512, "embed_dim": (64, 128)}
    options = {**TINY, **options, "transformer_rel_pos_type": "mlp"}
    model = create_model("coatnet_0_224", 512, **options)
    init = jit_once(model.init)
    params = init(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    conv = params["stages_0"]["blocks_1"]
    for kernel, fan_out in (
        (params["stem"]["conv2"]["kernel"], 9 * 16),
        (conv["conv1_1x1"]["kernel"], 256),
        (conv["conv2_kxk"]["kernel"], 9),
        (conv["conv3_1x1"]["kernel"], 64),
        (conv["se"]["fc1"]["kernel"], 16),
    ):
        assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
    block = params["stages_1"]["blocks_0"]
    for kernel, fans in (
        (block["attn"]["qkv"]["kernel"], 64 + 3 * 128),
        (block["attn"]["proj"]["kernel"], 128 + 128),
        (block["mlp"]["fc1"]["kernel"], 128 + 512),
        (block["shortcut"]["expand"]["kernel"], 64 + 128),
        (block["attn"]["rel_pos"]["mlp"]["fc1"]["kernel"], 2 + 512),
    ):
        bound = (6 / fans) ** 0.5
        assert bound * 0.98 < jnp.abs(kernel).max() <= bound
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.06)
    for mlp in (block["mlp"], block["attn"]["rel_pos"]["mlp"]):
        assert mlp["fc1"]["bias"].std() == pytest.approx(1e-6, rel=0.15)
    for layer in (block["attn"]["qkv"], conv["conv3_1x1"], conv["se"]["fc1"]):
        assert not layer["bias"].any()
    head = params["head"]
    for layer, fan_in in ((head["fc"], 512), (head["pre_logits"]["fc"], 128)):
        for leaf in layer.values():
            assert leaf.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


@pytest.mark.parametrize(
    ("scheme", "depthwise", "linear"),
    [
        ("normal", 0.02, 0.02),
        ("trunc_normal", 0.0176, 0.0176),  # not rescaled after the cut
        ("xavier_normal", (2 / (9 + 9 * 512)) ** 0.5, (2 / (64 + 512)) ** 0.5),
        ("", (3 * 9) ** -0.5, (3 * 64) ** -0.5),
    ],
)
def test_other_schemes(scheme, depthwise, linear):
    conv = initializers.conv(scheme, 9, groups=512)
    kernel = conv["kernel_init"](KEY, (3, 3, 1, 512), jnp.float32)
    assert kernel.std() == pytest.approx(depthwise, rel=0.05)
    for inits in (initializers.linear(scheme, 64), initializers.conv(scheme, 64)):
        kernel = inits["kernel_init"](KEY, (64, 512), jnp.float32)
        assert kernel.std() == pytest.approx(linear, rel=0.05)
        bias = inits["bias_init"](KEY, (512,), jnp.float32)
        assert bias.std() == pytest.approx(0 if scheme else linear, rel=0.05)


def test_timm_s_nested_configuration_gives_the_same_model():
    nested = {
        "cfg": {
            "embed_dim": [16, 32],
            "depths": [1, 2],
            "block_type": ["C", ["C", "T"]],
            "conv_cfg": {"padding": "same", "norm_layer_cl": ""},
            "transformer_cfg": {"dim_head": 16, "window_size": None},
        },
        "img_size": 32,
    }
    flat = {
        "embed_dim": (16, 32),
        "depths": (1, 2),
        "block_type": ("C", ("C", "T")),
        "conv_padding": "same",
        "transformer_dim_head": 16,
        "img_size": 32,
    }
    assert create_model("coatnet_0_224", **nested) == create_model(
        "coatnet_0_224", **flat
    )
    with pytest.raises(UserError, match='"conv_padding"'):
        create_model("coatnet_0_224", conv_cfg={"pading": "same"})


@pytest.mark.parametrize("model", ["coatnet_0_224", "coatnet_0_rw_224"])
def test_decay_is_timm_s_and_a_stage_is_a_layer(model):
    _, arrays = load_golden("train/param_groups")
    split = json.loads(arrays["json_utf8"].tobytes())["weight_decay_split"][model]
    net = create_model(model, scan=True)
    params = jax.eval_shape(net.init, KEY, jnp.zeros((1, 224, 224, 3)))["params"]
    found = describe(params, layer_decay=0.5, roles=net.roles)
    rows = {row.name: row for row in found}
    rules = COATNET.dialects["timm"]
    for kind, factor in (("decay", 1.0), ("no_decay", 0.0)):
        for key in split[kind]:
            path, _ = find_path(key, rules)
            row = rows.pop(path.removeprefix("params/"))
            assert row.decay == factor
            layers = {"stem": 0, "norm": 4, "head": 5}
            first, second = key.split(".")[:2]
            layer = layers[first] if first in layers else 1 + int(second)
            assert row.lr == 0.5 ** (5 - layer)
    assert not rows


def test_position_networks_do_not_decay():
    options = {**ONE, "transformer_rel_pos_type": "mlp"}
    model = create_model("coatnet_0_224", 10, **options)
    params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 16, 16, 3)))["params"]
    decayed = {row.name for row in describe(params, roles=model.roles) if row.decay}
    assert any(name.endswith("attn/qkv/kernel") for name in decayed)
    assert not any("rel_pos" in name for name in decayed)


def test_a_mesh_changes_nothing():
    model = create_model("coatnet_0_rw_224", 10, **TINY | {"depths": (1, 2)})
    variables, images = fill(model, batch=8)
    alone = train(model, variables, images)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(variables, state_shardings(variables, mesh))
        spread = train(model, placed, images)
    chex.assert_trees_all_close(spread, alone, atol=1e-5, rtol=0)


def test_rectangular_maps_and_global_pools():
    model = create_model("coatnet_0_rw_224", 10, **ONE | {"img_size": [16, 32]})
    assert model.maps == [(4, 8)]
    variables, images = fill(model)
    pooled = {}
    for pool in ("avg", "max", "avgmax"):
        _, aux = jit_once(model.clone(global_pool=pool).apply)(variables, images)
        pooled[pool] = aux["features"]
    mean = (pooled["avg"] + pooled["max"]) / 2
    chex.assert_trees_all_close(pooled["avgmax"], mean, atol=1e-6)
    chex.assert_trees_all_close(pooled["avg"], aux["tokens"].mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 200}, "multiple of 32, such as img_size=192"),
        ({"depths": (2, 2, 2)}, "depths=.* has 3 stages, embed_dim has 4"),
        ({"depths": (2, 0, 2, 2)}, "must be 1 or more"),
        ({"block_type": ("C", "C", "T", "X")}, 'not made of "C"'),
        ({"transformer_dim_head": 25}, "transformer_dim_head=25"),
        ({"conv_group_size": 7}, "conv_group_size=7"),
        ({"conv_kernel_size": 4}, "must be odd"),
        ({"conv_block_type": "convnext", "conv_stride_mode": "1x1"}, "mbconv"),
        ({"conv_block_type": "convnext", "stem_width": 36}, "cannot widen 36"),
        ({"conv_pool_type": "min"}, "avg2, avg, max2, max"),
        ({"conv_norm_layer": "groupnorm"}, "batchnorm2d"),
        ({"conv_attn_layer": "eca"}, "conv_attn_layer"),
        ({"transformer_rel_pos_type": "rope"}, "bias, mlp, bias_tf"),
        ({"weight_init": "he"}, "vit_eff"),
        ({"drop_path_rate": 2.0}, "between 0 and 1"),
        ({"transformer_cfg": {"dim_heads": 8}}, "transformer_dim_head"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model("coatnet_0_224", **overrides)
    assert "\n" not in str(error.value)


def test_odd_maps_need_pools_that_reach_over_their_edge():
    with pytest.raises(UserError, match="odd size before stage 1"):
        create_model("coatnet_0_224", **TINY | {"img_size": 36})
    pools = {"conv_pool_type": "max", "transformer_pool_type": "max"}
    model = create_model("coatnet_0_224", 10, **TINY | pools | {"img_size": 36})
    assert model.maps == [(9, 9), (5, 5)]
    shapes = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((1, 36, 36, 3)))
    assert shapes[0][1]["tokens"].shape == (1, 25, 32)

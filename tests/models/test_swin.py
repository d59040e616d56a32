"""Properties of Swin and Swin V2 beyond the reference values of whole models."""

import json
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import GOLDEN, golden_images, load_golden, reference_state
from model_goldens import assert_close, jit_once, published_counts
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, list_models, stack_blocks
from vit_jax_tricks.optim.param_groups import describe
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias
from vit_jax_tricks.pretrained.rules import find_key, key_names
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY, TINY_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
SMALL = {
    "img_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": (1, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
ONE_STAGE = {**SMALL, "depths": (2,), "num_heads": (2,)}
OPTIONS, LOGITS = load_golden("models_small/swin_options")


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


@pytest.mark.parametrize("case", OPTIONS["cases"], ids=lambda case: case["id"])
def test_other_options_equal_the_references(case, x64):
    """Odd maps, fixed windows, windows by stage, head sizes, pools, ape, rectangles."""
    official = "repository" in case["reference"]
    more = {"square_windows": True} if official else {}
    model = create_model(
        case["name"],
        **case["kwargs"] | more,
        dtype="float64",
        param_dtype="float64",
        scan=not official,
    )
    variables, report = load_arrays(model, reference_state(case))
    assert (report.reset, report.unused, report.resized) == ((), (), ())
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    assert count == case["n_params_trainable"]
    logits, _ = apply(model, variables, jnp.asarray(golden_images(case), jnp.float64))
    assert_close(logits, LOGITS[f"logits64:{case['id']}"], 1e-9)


def captured(model, variables, images, **kwargs):
    """The outputs of all modules, compiled in little time."""

    def run(variables, images):
        return model.apply(
            variables,
            images,
            capture_intermediates=True,
            mutable=["intermediates"],
            rngs={"dropout": jax.random.key(0)},
            **kwargs,
        )[1]

    return jit_once(run)(variables, images)["intermediates"]


def gradient(model, params, images):
    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        logits = model.apply({"params": params}, images, train=True, rngs=rngs)[0]
        return (logits**2).sum()

    return jit_once(jax.grad(loss))(params)


def test_scanned_and_recomputed_blocks_train_alike(images):
    model = create_model(TINY, 5, **ONE_STAGE)
    params = fill(model, images)["params"]
    expected = stack_blocks(gradient(model, params, images))
    recomputed = model.clone(remat=True)
    apart = gradient(recomputed, params, images)
    stacked = gradient(recomputed.clone(scan=True), stack_blocks(params), images)
    for other in (stack_blocks(apart), stacked):
        chex.assert_trees_all_close(other, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"]
)
def test_every_dropout_acts_in_training(rate, images):
    model = create_model(TINY_V2, 5, **ONE_STAGE | {rate: 0.5, "scan": True})
    variables = fill(model, images)
    first, second = (
        apply(model, variables, images, seed, train=True)[0] for seed in (0, 1)
    )
    assert jnp.abs(first - second).max() > 1e-5


def test_drop_path_grows_from_the_first_block_to_the_last(images):
    """linspace over all blocks: the first never drops, with 1 the last always does."""
    model = create_model(TINY, 5, **ONE_STAGE | {"drop_path_rate": 1.0})
    variables = fill(model, images)
    first, last = (
        captured(model, variables, images, train=True)["layers_0"][name]["__call__"][0]
        for name in ("blocks_0", "blocks_1")
    )
    chex.assert_trees_all_equal(first, last)
    undropped = captured(model, variables, images)["layers_0"]["blocks_0"]
    chex.assert_trees_all_close(first, undropped["__call__"][0], atol=1e-6)


def test_a_mesh_changes_neither_values_nor_drops(images):
    model = create_model(
        TINY_V2, 5, **ONE_STAGE | {"scan": True, "drop_path_rate": 0.5}
    )
    params = fill(model, images)["params"]
    run = partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)})
    alone = jit_once(run)({"params": params}, images)[0]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, state_shardings(params, mesh))
        spread = jit_once(run)({"params": placed}, images)[0]
    np.testing.assert_allclose(spread, alone, atol=1e-5)


def test_initialisation_of_swin_is_the_reference_s():
    model = create_model(TINY, img_size=56, depths=(1, 1), num_heads=(3, 6))
    params = jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 56, 56, 3)))
    params = params["params"]
    block = params["layers_1"]["blocks_0"]
    for leaf in (
        block["attn"]["qkv"]["kernel"],
        block["attn"]["proj"]["kernel"],
        block["attn"]["relative_position_bias_table"],
        block["mlp"]["fc2"]["kernel"],
        params["layers_1"]["downsample"]["reduction"]["kernel"],
        params["head"]["kernel"],
    ):
        assert leaf.std() == pytest.approx(0.02, rel=0.05)
    bound = (4 * 4 * 3) ** -0.5
    for leaf in jax.tree.leaves(params["patch_embed"]["proj"]):
        assert leaf.std() == pytest.approx(bound / 3**0.5, rel=0.15)
        assert jnp.abs(leaf).max() <= bound
    assert not block["attn"]["qkv"]["bias"].any()
    assert (block["norm1"]["scale"] == 1).all()


def test_blocks_of_swin_v2_start_as_the_identity(images):
    model = create_model(TINY_V2, 5, **SMALL)
    variables = jit_once(model.init)(jax.random.key(0), images)
    block = variables["params"]["layers_1"]["blocks_0"]
    assert not block["norm1"]["scale"].any()
    assert not block["attn"]["q_bias"].any()
    assert block["attn"]["cpb_mlp"]["fc1"]["kernel"].std() == pytest.approx(0.02, 0.1)
    np.testing.assert_allclose(block["attn"]["logit_scale"], math.log(10), rtol=1e-6)
    assert (variables["params"]["layers_1"]["downsample"]["norm"]["scale"] == 1).all()
    inside = captured(model, variables, images)
    chex.assert_trees_all_equal(
        inside["layers_0"]["blocks_0"]["__call__"][0],
        inside["patch_embed"]["__call__"][0],
    )


def test_images_of_other_sizes_need_leave(images):
    model = create_model(TINY, 5, **SMALL)
    variables = fill(model, images)
    other = jnp.zeros((1, 12, 20, 3))
    with pytest.raises(UserError, match=r"\(12, 20, 3\).*\(16, 16, 3\)"):
        apply(model, variables, other)
    free = model.clone(dynamic_img_size=True)
    assert apply(free, variables, other)[1]["tokens"].shape == (1, 3 * 5, 16)
    with pytest.raises(UserError, match="not divisible by patch_size=2"):
        apply(free, variables, jnp.zeros((1, 15, 20, 3)))
    chex.assert_trees_all_equal(
        apply(free, variables, images), apply(model, variables, images)
    )


@pytest.fixture(scope="module")
def weights():
    """Weights of the same small model in timm's and in the official key names."""
    timm = reference_state(load_golden("models_small/small_swin")[0])
    model = small_swin()
    variables, _ = load_arrays(model, timm)
    return timm, variables, reference_arrays(variables, TINY, "official")


def small_swin(**overrides):
    kwargs = load_golden("models_small/small_swin")[0]["kwargs"]
    return create_model(TINY, **kwargs | overrides)


def test_both_dialects_load_alike_and_are_written_on_demand(weights, tmp_path):
    timm, variables, official = weights
    for i in range(2):
        key = "downsample.reduction.weight"
        expected = timm[f"layers.{i + 1}.{key}"]
        np.testing.assert_array_equal(official[f"layers.{i}.{key}"], expected)
    assert "head.fc.weight" in timm
    assert "head.weight" in official
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((16, 16), "i8"),
        "layers.0.blocks.1.attn_mask": np.zeros((16, 16, 16), "f4"),
    }
    loaded, report = load_arrays(small_swin(), official | buffers)
    assert (report.unused, report.reset) == ((), ())
    chex.assert_trees_all_equal(loaded, variables)
    path = tmp_path / "official.safetensors"
    export_weights(variables, TINY, path, dialect="official")
    chex.assert_trees_all_equal(load_pretrained(small_swin(), path)[0], variables)
    with pytest.raises(UserError, match="use one of timm, official"):
        export_weights(variables, TINY, path, dialect="microsoft")


def test_another_window_resizes_the_bias_tables_as_timm_does(weights):
    timm, _, official = weights
    model = small_swin(img_size=48, window_size=6, num_classes=10)
    for state in (timm, official):
        variables, report = load_arrays(model, state)
        assert len(report.resized) == 6
        params = variables["params"]
        for stage, window in enumerate([6, 6, 6]):
            key = f"layers.{stage}.blocks.1.attn.relative_position_bias_table"
            ours = params[f"layers_{stage}"]["blocks_1"]["attn"]
            expected = resize_relative_bias(state[key], (window, window))
            np.testing.assert_array_equal(
                ours["relative_position_bias_table"], expected
            )


def test_a_bias_table_of_other_heads_is_refused(weights):
    other = small_swin(num_heads=(2, 4, 4), window_size=2)
    with pytest.raises(UserError, match=r"it is for \(2,\) heads, not \(4,\)"):
        load_arrays(other, weights[0])


def test_bias_tables_from_7_to_12_are_timm_s():
    """The linear interpolation on a geometric grid, not the official bicubic one."""
    _, arrays = load_golden("ops/position_resize")
    table = resize_relative_bias(arrays["relbias_13x13"], (12, 12))
    expected = arrays["relbias_timm_geometric_to_23x23"]
    np.testing.assert_allclose(table, expected, atol=1e-5)
    official = arrays["relbias_swin_official_to_23x23"]
    assert np.abs(table - official).max() > 0.1
    with pytest.raises(UserError, match="its 105 rows are not those of a square"):
        resize_relative_bias(np.zeros((105, 2), np.float32), (4, 7))


def test_an_absolute_table_is_resized_as_the_official_code_does(images):
    variables = fill(create_model(TINY, 5, **SMALL, ape=True), images)
    state = reference_arrays(variables, TINY, "official")
    larger = create_model(TINY, 5, **SMALL | {"img_size": (24, 32)}, ape=True)
    loaded, report = load_arrays(larger, state)
    assert report.resized == ("absolute_pos_embed (1, 64, 8) -> (1, 192, 8)",)
    table = jnp.asarray(state["absolute_pos_embed"])
    expected = resize_positions(table, (12, 16), prefix=0, plain=True)
    np.testing.assert_allclose(
        loaded["params"]["absolute_pos_embed"], expected, atol=1e-6
    )


@pytest.mark.parametrize("scan", [False, True], ids=["apart", "stacked"])
@pytest.mark.parametrize("name", [TINY, TINY_V2])
def test_decay_split_is_timms(name, scan):
    model = create_model(name, scan=scan)
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    found = describe(params, roles=model.roles)
    rules = key_names(type(model)).dialects["timm"]
    with np.load(GOLDEN / "train/param_groups.npz") as file:
        split = json.loads(file["json_utf8"].tobytes())["weight_decay_split"][name]
    for kind, factor in (("decay", 1.0), ("no_decay", 0.0)):
        ours = [row.name for row in found if row.decay == factor]
        keys = [find_key(f"params/{path}", rules)[0] for path in ours]
        assert sorted(keys) == sorted(split[kind])


def test_every_published_name_is_there():
    published = [n for n in published_counts() if n.startswith(("swin_", "swinv2_"))]
    ours = list_models("swin*")
    assert sorted(n for n in published if "_cr_" not in n) == ours


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (TINY, {"num_heads": (3, 6, 12)}, "has 3 entries for 4 stages"),
        (TINY, {"num_heads": (3, 6, 12, 7)}, "does not divide its width 768"),
        (TINY, {"window_size": (7, 7, 7)}, "window_size=.* has 3 entries"),
        (TINY, {"window_size": 0}, "must be 1 or more"),
        (TINY, {"window_size": 3.5}, "it must be int"),
        (TINY, {"mlp_ratio": (4.0, 4.0)}, "mlp_ratio=.* has 2 entries"),
        (TINY, {"head_dim": (4, 4)}, "head_dim=.* has 2 entries"),
        (TINY, {"depths": (2, 0, 6, 2)}, "1 or more blocks"),
        (TINY, {"img_size": 226}, "img_size=224"),
        (TINY, {"global_pool": "token"}, "avg, max"),
        (TINY, {"drop_path_rate": -0.1}, "between 0 and 1"),
        (TINY, {"ape": True, "strict_img_size": False}, "ape=True allows only one"),
        (TINY, {"always_partition": True, "square_windows": True}, "no effect"),
        (TINY_V2, {"pretrained_window_sizes": (12, 12)}, "has 2 entries for 4"),
        (TINY_V2, {"head_dim": 32}, "no override"),
    ],
)
def test_mistakes_are_one_clear_line(name, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model(name, **overrides)
    assert "\n" not in str(error.value)

"""ViT's relatives beyond the reference files: other blocks, rotations, starts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays


pytestmark = pytest.mark.slow


SMALL = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 2}
SMALL |= {"num_heads": 3, "mlp_ratio": 2.0}
PLACES = [(row, column) for row in range(2) for column in range(3)]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 16, 24, 3))


def run(name, images, **overrides):
    """Our tokens and features of the first image, and its parts in float64."""
    model = create_model(name, 4, **{**SMALL, **overrides})
    variables = fill(model, images)
    _, aux = apply(model, variables, images)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    return aux, params["params"], np.asarray(images[0], np.float64)


def angles(kind, prefix, frequencies=None):
    """Angles [g, n, h / 2] of h = 8 features, for each kind of rotation."""
    out = np.zeros((3, prefix + 6, 4))
    for n, (row, column) in enumerate(PLACES):
        for g in range(3):
            if kind == "mixed":
                x, y = np.asarray(frequencies)[:, g]
                out[g, prefix + n] = column * x + row * y
            elif kind == "dinov3":
                ends = (2 * (row + 0.5) / 2 - 1, 2 * (column + 0.5) / 3 - 1)
                turns = [2 * math.pi * p / 100 ** (k / 2) for p in ends for k in (0, 1)]
                out[g, prefix + n] = turns
            elif kind == "eva":
                ends = (row / 2 * 16, column / 3 * 16)
                out[g, prefix + n] = [p / 100.0**k for p in ends for k in (0, 1)]
            else:
                ends = (column, row)
                out[g, prefix + n] = [p / 10.0**k for p in ends for k in (0, 1)]
    return out


def compare(aux, tokens, features, atol=2e-5):
    np.testing.assert_allclose(aux["tokens"][0], tokens, atol=atol)
    np.testing.assert_allclose(aux["features"][0], features, atol=atol)


def test_post_norm_blocks(images):
    aux, p, image = run("vit_base_patch16_rpn_224", images)
    x = numpy_vit.patches(image, p["patch_embed"], 8) + p["pos_embed"][0]
    for i in range(2):
        x = numpy_vit.block(x, p[f"blocks_{i}"], 3, 1e-6, post_norm=True)
    compare(aux, x, numpy_vit.norm(x.mean(0), p["fc_norm"], 1e-6))


def test_parallel_scaling_blocks(images):
    aux, p, image = run("vit_base_patch16_xp_224", images)
    x = numpy_vit.patches(image, p["patch_embed"], 8) + p["pos_embed"][0]
    assert "bias" not in p["patch_embed"]["proj"]
    x = np.concatenate([p["cls_token"][0], x])
    x = numpy_vit.norm(x, p["norm_pre"], 1e-6, "rmsnorm")
    for i in range(2):
        x = numpy_vit.parallel_block(x, p[f"blocks_{i}"], 3, 1e-6)
    x = numpy_vit.norm(x, p["norm"], 1e-6, "rmsnorm")
    compare(aux, x, x[0])


@pytest.mark.parametrize("clip", [False, True])
def test_eva02_with_separate_projections_and_norms_inside(clip, images):
    name = "eva02_base_patch16_clip_224" if clip else "eva02_base_patch14_224"
    aux, p, image = run(name, images)
    assert set(p["blocks_0"]["attn"]) - {"norm"} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "proj",
    }
    assert "bias" not in p["blocks_0"]["attn"]["k_proj"]
    x = numpy_vit.patches(image, p["patch_embed"], 8)
    x = np.concatenate([p["cls_token"][0], x]) + p["pos_embed"][0]
    for i in range(2):
        x = numpy_vit.block(x, p[f"blocks_{i}"], 3, 1e-6, angles=angles("eva", 1))
    if clip:
        x = numpy_vit.norm(x, p["norm"], 1e-6)
        compare(aux, x, x[0])
    else:
        compare(aux, x, numpy_vit.norm(x[1:].mean(0), p["fc_norm"], 1e-6))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_rope_vit(mixed, absolute, images):
    name = f"vit_small_patch16_rope{'_mixed' * mixed}{'_ape' * absolute}_224"
    aux, p, image = run(name, images)
    x = numpy_vit.patches(image, p["patch_embed"], 8)
    if absolute:
        x = x + p["pos_embed"][0]
    x = np.concatenate([p["cls_token"][0], x])
    for i in range(2):
        turns = angles("axial", 1)
        if mixed:
            turns = angles("mixed", 1, p["rope"]["freqs"][:, i])
        x = numpy_vit.block(x, p[f"blocks_{i}"], 3, 1e-6, angles=turns)
    x = numpy_vit.norm(x, p["norm"], 1e-6)
    compare(aux, x, x[0])


@pytest.mark.parametrize("plus", [False, True])
def test_dinov3(plus, images):
    name = f"vit_small{'_plus' * plus}_patch16_dinov3{'_qkvb' * plus}"
    aux, p, image = run(name, images, mlp_ratio=2.1)
    x = numpy_vit.patches(image, p["patch_embed"], 8)
    x = np.concatenate([p["cls_token"][0], p["reg_token"][0], x])
    turns = angles("dinov3", 5)
    for i in range(2):
        x = numpy_vit.block(x, p[f"blocks_{i}"], 3, 1e-5, angles=turns, half=True)
    x = numpy_vit.norm(x, p["norm"], 1e-5)
    compare(aux, x, x[5:].mean(0))
    hidden = p["blocks_0"]["mlp"]["fc2"]["kernel"].shape[0]
    assert hidden == (56 if plus else 50)  # 50 to a multiple of 8


def test_gated_mlp_of_dinov2_giant(images):
    aux, p, image = run("vit_giant_patch14_dinov2", images)
    x = numpy_vit.patches(image, p["patch_embed"], 8)
    x = np.concatenate([p["cls_token"][0], x]) + p["pos_embed"][0]
    for i in range(2):
        x = numpy_vit.block(x, p[f"blocks_{i}"], 3, 1e-6)
    x = numpy_vit.norm(x, p["norm"], 1e-6)
    compare(aux, x, x[0])


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "prr"])
@pytest.mark.parametrize("prefix", [False, True])
def test_pooling(pool, prefix, images):
    more = {"pool_include_prefix": prefix, "fc_norm": False, "class_token": False}
    more["reg_tokens"] = 2
    aux, _, _ = run("vit_tiny_patch16_224", images, global_pool=pool, **more)
    x = np.asarray(aux["tokens"][0], np.float64)
    if pool == "prr":
        heads = x.reshape(8, 3, 8)
        expected = numpy_vit.attend(heads, heads, heads).reshape(8, 24).mean(0)
    else:
        x = x if prefix else x[2:]
        mean, largest = x.mean(0), x.max(0)
        every = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2}
        expected = every[pool]
    np.testing.assert_allclose(aux["features"][0], expected, atol=1e-5)


def test_one_bias_for_all_blocks(images):
    """A shared bias is what every block would have on its own."""
    shared = create_model("vit_srelpos_small_patch16_224", 4, **SMALL)
    own = create_model(
        "vit_srelpos_small_patch16_224", 4, shared_rel_pos=False, **SMALL
    )
    variables = fill(shared, images)
    params = dict(variables["params"])
    bias = params.pop("shared_rel_pos")
    assert set(bias) == {"mlp"}
    for i in range(2):
        block = params[f"blocks_{i}"]
        attn = {**block["attn"], "rel_pos": bias}
        params[f"blocks_{i}"] = {**block, "attn": attn}
    y = apply(own, {"params": params}, images)[0]
    np.testing.assert_allclose(y, apply(shared, variables, images)[0], atol=1e-5)


def test_initialisation_of_eva_is_timm_s():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 3}
    model = create_model("eva02_tiny_patch14_224", 50, **sizes)
    scanned = model.clone(scan=True)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(model.init)(KEY, images)["params"]
    stacked = jax.jit(scanned.init)(KEY, images)["params"]["blocks"]
    for i in range(3):
        gain = (2 * (i + 1)) ** -0.5
        for tree, index in ((params[f"blocks_{i}"], ...), (stacked, i)):
            for layer, std in (
                (tree["attn"]["qkv"], 0.02),
                (tree["mlp"]["fc1"], 0.02),
                (tree["attn"]["proj"], 0.02 * gain),
                (tree["mlp"]["fc2"], 0.02 * gain),
            ):
                assert float(layer["kernel"][index].std()) == pytest.approx(
                    std, rel=0.02
                )
    assert float(params["head"]["kernel"].std()) == pytest.approx(2e-5, rel=0.05)
    assert float(params["cls_token"].std()) == pytest.approx(0.02, rel=0.2)
    assert not jnp.any(params["blocks_0"]["attn"]["q_bias"])


def test_initialisation_of_relative_bias_vits_is_pytorch_s():
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 64,
        "num_heads": 4,
        "depth": 1,
    }
    name = "vit_relpos_medium_patch16_rpn_224"
    model = create_model(name, 50, rel_pos_type="bias", **sizes)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    block = params["blocks_0"]
    for kernel in (block["attn"]["qkv"]["kernel"], block["mlp"]["fc1"]["kernel"]):
        assert float(jnp.abs(kernel).max()) == pytest.approx(1 / 8, rel=0.01)
        assert float(kernel.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
    assert float(jnp.abs(params["head"]["bias"]).max()) > 0.05
    table = block["attn"]["rel_pos"]["relative_position_bias_table"]
    assert float(table.std()) == pytest.approx(0.02, rel=0.1)
    for norm in ("norm1", "norm2"):
        np.testing.assert_allclose(block[norm]["scale"], 1e-6)


def test_tables_and_rotation_fit_another_size():
    """A bias table is spread as timm does it, rotary angles are computed anew."""
    small = {**SMALL, "img_size": 32, "patch_size": 8}
    big = {**small, "img_size": 56}
    images = jnp.zeros((1, 32, 32, 3))
    more = {"rel_pos_type": "bias", "class_token": True}
    name = "vit_relpos_small_patch16_224"
    arrays = reference_arrays(
        fill(create_model(name, 4, **small, **more), images), name
    )
    variables, report = load_arrays(create_model(name, 4, **big, **more), arrays)
    assert len(report.resized) == 2
    key = "blocks.0.attn.rel_pos.relative_position_bias_table"
    table = variables["params"]["blocks_0"]["attn"]["rel_pos"]
    table = table["relative_position_bias_table"]
    assert table.shape == (13 * 13 + 3, 3)
    np.testing.assert_array_equal(table[-3:], arrays[key][-3:])
    middle = table[:-3].reshape(13, 13, 3)[6, 6]
    np.testing.assert_allclose(
        middle, arrays[key][:-3].reshape(7, 7, 3)[3, 3], atol=1e-6
    )
    name = "eva02_tiny_patch14_224"
    arrays = reference_arrays(fill(create_model(name, 4, **small), images), name)
    _, report = load_arrays(create_model(name, 4, **big), arrays)
    assert [line.split()[0] for line in report.resized] == ["pos_embed"]


@pytest.mark.parametrize("shared", [False, True])
def test_beit_is_a_vit_with_a_bias_in_its_attention(shared, images):
    name = "beit_base_patch16_224"
    more = {"use_rel_pos_bias": not shared, "use_shared_rel_pos_bias": shared}
    model = create_model(name, 4, **{**SMALL, **more})
    variables = fill(model, images)
    arrays = reference_arrays(variables, name)
    table = "relative_position_bias_table"
    key = f"rel_pos_bias.{table}" if shared else f"blocks.1.attn.{table}"
    assert arrays[key].shape == (3 * 5 + 3, 3)
    assert "blocks.0.attn.q_bias" in arrays
    assert "blocks.0.gamma_2" in arrays
    again, report = load_arrays(model, arrays)
    assert not report.reset
    assert not report.unused
    twin = create_model(
        "vit_tiny_patch16_224",
        4,
        **SMALL,
        pos_embed="rel_bias",
        shared_rel_pos=shared,
        global_pool="avg",
        init_values=0.1,
        qkv="fused_qv",
    )
    y = [apply(m, again, images)[0] for m in (model, twin)]
    np.testing.assert_allclose(*y, atol=1e-6)
    fresh = jax.jit(model.init)(KEY, images)["params"]
    place = fresh["shared_rel_pos"] if shared else fresh["blocks_0"]["attn"]["rel_pos"]
    assert not jnp.any(place[table])
    np.testing.assert_allclose(fresh["blocks_1"]["ls1"]["gamma"], 0.1)


def test_official_names_of_eva02(images):
    name = "eva02_base_patch16_clip_224"
    model = create_model(name, 4, **SMALL)
    variables = fill(model, images)
    arrays = reference_arrays(variables, name, "official")
    assert {
        "blocks.0.attn.inner_attn_ln.weight",
        "blocks.0.attn.q_proj.weight",
        "blocks.1.mlp.w1.bias",
        "blocks.1.mlp.ffn_ln.weight",
        "blocks.1.mlp.w3.weight",
    } <= arrays.keys()
    again, report = load_arrays(model, arrays)
    assert not report.reset
    assert not report.unused
    np.testing.assert_array_equal(
        again["params"]["blocks_1"]["mlp"]["fc1_g"]["kernel"],
        variables["params"]["blocks_1"]["mlp"]["fc1_g"]["kernel"],
    )


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vit_relpos_small_patch16_224", {"rel_pos_type": "swin"}, "mlp_swin"),
        ("vit_relpos_small_patch16_224", {"global_pool": "token"}, "class_token=False"),
        ("eva02_tiny_patch14_224", {"rope_type": "axial"}, "cat, mixed, dinov3"),
        ("eva02_tiny_patch14_224", {"rope_rotate_half": True}, "rope_rotate_half"),
        ("vit_small_patch16_dinov3", {"rope_type": "cat"}, "rope_rotate_half"),
        (
            "eva02_tiny_patch14_224",
            {"use_post_transformer_norm": True, "use_fc_norm": True},
            "use one of them",
        ),
        ("eva02_tiny_patch14_224", {"embed_dim": 18}, "divisible by 4; got 6"),
        ("eva02_tiny_patch14_224", {"swiglu": True}, '"swiglu_mlp"'),
        ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}, "use one of"),
        ("vit_base_patch16_xp_224", {"parallel": 2}, "parallel=1"),
        ("vit_base_patch16_xp_224", {"pos_embed": "rel_bias"}, "shared_rel_pos=True"),
        ("vit_base_patch16_xp_224", {"norm_layer": "batchnorm"}, "rmsnorm"),
        ("vit_base_patch16_siglip_224", {"global_pool": "mean"}, "token, avg, avgmax"),
        ("vit_tiny_patch16_224", {"mlp_layer": "glu"}, "swiglu_packed"),
    ],
)
def test_mistakes_are_one_clear_line(name, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model(name, **overrides)
    assert "\n" not in str(error.value)

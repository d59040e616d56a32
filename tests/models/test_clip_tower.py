"""CLIP's image towers against OpenAI's program, and their weights in and out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_goldens import create_tower, tower
from goldens import load_golden, reference_state
from model_goldens import assert_close, jit_once, macs
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, list_models, preprocessing
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.load import load_arrays


SMALL, FULL = "clip/clip_small", "clip/clip_vit_b32"
OFFICIAL = "clip_vit_b32_image"
# timm's name for the same network has a bias, which must be zero.
NAMES = [OFFICIAL, "vit_base_patch32_clip_quickgelu_224"]


@pytest.fixture(scope="module")
def state():
    return reference_state(load_golden(SMALL)[0])


def build(**overrides):
    return create_tower(SMALL, OFFICIAL, **overrides)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_features_of_the_small_tower(name):
    model, variables, _, images, _, arrays = tower(SMALL, name, "float32")

    def run(variables, images):
        return model.apply(
            variables,
            images,
            capture_intermediates=lambda m, _: m.path[-1:] and "block" in m.path[-1],
            mutable=["intermediates"],
        )

    (features, _), captured = jit_once(run)(variables, images)
    assert_close(features, arrays["image_features"], 2e-5)
    for i in range(2):
        output = captured["intermediates"][f"blocks_{i}"]["__call__"][0]
        expected = arrays[f"block:visual.transformer.resblocks.{i}"]
        assert_close(output, expected, 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_small_tower_in_float64(name, x64):
    model, variables, _, images, _, arrays = tower(SMALL, name, "float64", scan=True)
    features = jit_once(model.apply)(variables, images)[0]
    assert_close(features, arrays["image_features64"], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_full_size(dtype):
    with jax.enable_x64(dtype == "float64"):
        model, variables, _, images, _, arrays = tower(FULL, OFFICIAL, dtype, scan=True)
        features = jax.jit(model.apply)(variables, images)[0]
        if dtype == "float64":
            assert_close(features, arrays["image_features64"], 1e-9)
        else:
            assert_close(features, arrays["image_features"], 2e-5)


@pytest.mark.parametrize("golden", [SMALL, FULL])
def test_parameters_and_macs_of_the_tower_alone(golden):
    manifest, _ = load_golden(golden)
    model = create_tower(golden, OFFICIAL)
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == manifest["n_params_visual"]
    assert macs(model) == manifest["macs_image_tower_one_image"]


@pytest.mark.parametrize("name", NAMES)
def test_the_text_tower_is_reported_and_refuses_nothing(name, state):
    _, variables, report, *_ = tower(SMALL, name, "float32")
    text = {key for key in state if not key.startswith("visual.")}
    assert set(report.unused) == text
    assert set(report.loaded) == state.keys() - text
    assert report.reset == report.resized == ()
    bias = variables["params"]["head"].get("bias")
    assert bias is None if name == OFFICIAL else not bias.any()


def test_other_unknown_keys_are_refused(state):
    extra = {**state, "visual.attn_pool.query": np.zeros((1, 128), np.float32)}
    with pytest.raises(UserError, match=r"unexpected visual\.attn_pool\.query"):
        load_arrays(build(), extra)


def test_a_file_in_float16_with_the_sizes_that_openai_stores(state, tmp_path):
    arrays = {f"module.{k}": v.astype(np.float16) for k, v in state.items()}
    for name in ("input_resolution", "context_length", "vocab_size"):
        arrays[name] = np.array(32)
    save_file(arrays, tmp_path / "clip.safetensors")
    model = build()
    variables, report = load_pretrained(model, tmp_path / "clip.safetensors")
    assert "vocab_size" in report.unused
    token = variables["params"]["cls_token"]
    assert token.dtype == jnp.float32
    expected = state["visual.class_embedding"].astype(np.float16)
    np.testing.assert_array_equal(token[0, 0], expected)


def test_what_is_exported_is_openai_s_state_dict(state, tmp_path):
    variables = tower(SMALL, OFFICIAL, "float32", scan=True)[1]
    export_weights(variables, OFFICIAL, tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    assert out.keys() == {key for key in state if key.startswith("visual.")}
    for key, value in out.items():
        np.testing.assert_array_equal(value, state[key])


def test_layer_scale_of_open_clip(state):
    scales = {
        f"visual.transformer.resblocks.{i}.ls_{j}.gamma": np.full(128, i + j / 10, "f4")
        for i in range(2)
        for j in (1, 2)
    }
    model = build(init_values=1e-5)
    variables, report = load_arrays(model, {**state, **scales})
    assert not report.reset
    np.testing.assert_array_equal(
        variables["params"]["blocks_1"]["ls2"]["gamma"], np.full(128, 1.2, "f4")
    )


def test_another_shared_space_resets_the_head_alone(state):
    model = build(num_classes=10, head_bias=True)
    variables, report = load_arrays(model, state, key=jax.random.key(5))
    assert report.reset == ("params/head/kernel",)
    assert variables["params"]["head"]["kernel"].shape == (128, 10)
    assert any("visual.proj (128, 32)" in line for line in report.unused)
    _, report = load_arrays(build(num_classes=0), state)
    assert "visual.proj" in report.unused


def test_another_image_size_resamples_the_positions(state):
    variables, report = load_arrays(build(img_size=48), state)
    assert report.resized == ("visual.positional_embedding (17, 128) -> (37, 128)",)
    table = variables["params"]["pos_embed"][0]
    np.testing.assert_array_equal(table[0], state["visual.positional_embedding"][0])


def test_the_published_towers_are_registered():
    assert list_models("clip_vit_*_image") == [
        "clip_vit_b16_image",
        "clip_vit_b32_image",
        "clip_vit_l14_336_image",
        "clip_vit_l14_image",
    ]
    assert create_model("clip_vit_l14_336_image").grid == (24, 24)
    assert preprocessing("clip_vit_l14_336_image").crop_pct == 1.0
    quick = create_model("vit_huge_patch14_clip_quickgelu_378")
    assert (quick.act_layer, quick.img_size, quick.depth) == ("quick_gelu", 378, 32)
    assert create_model("vit_huge_patch14_clip_378").act_layer == "gelu"
    assert preprocessing("vit_base_patch16_clip_384").crop_mode == "squash"

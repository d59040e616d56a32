"""Weights in: every key accounted for, every mistake one clear line."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden, reference_state
from model_goldens import jit_once
from safetensors.numpy import save_file

import vit_jax_tricks
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained import load_pretrained
from vit_jax_tricks.pretrained.resize import resize_positions


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


@pytest.fixture
def state():
    return reference_state(load_golden("models_small/small_deit_distilled")[0])


@pytest.fixture
def file(tmp_path, state):
    return save(tmp_path, state)


def save(folder, arrays):
    path = folder / "weights.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    return path


def make(num_classes=10, **overrides):
    return vit_jax_tricks.create_model(
        "deit_tiny_distilled_patch16_224", num_classes, **SMALL | overrides
    )


def test_everything_is_loaded_and_reported(file, state):
    variables, report = vit_jax_tricks.load_pretrained(make(), file)
    assert sorted(report.loaded) == sorted(state)
    assert (report.resized, report.reset, report.unused) == ((), (), ())
    assert str(report) == f"{file}: 47 arrays loaded as they are"
    kernel = variables["params"]["blocks_1"]["attn"]["qkv"]["kernel"]
    assert kernel.dtype == jnp.float32
    weight = state["blocks.1.attn.qkv.weight"]  # rows: q k v, head, feature
    np.testing.assert_array_equal(kernel[5, 1, 2], weight[32 + 16 : 32 + 24, 5])


def test_a_scanned_model_gets_stacked_blocks(file):
    plain, _ = load_pretrained(make(), file)
    stacked, _ = load_pretrained(make(scan=True), file)
    stack = vit_jax_tricks.models.stack_blocks
    chex.assert_trees_all_equal(stacked["params"], stack(plain["params"]))


def test_another_image_size_resamples_the_positions(file, state):
    variables, report = load_pretrained(make(img_size=48), file)
    table = jnp.asarray(state["pos_embed"])
    expected = resize_positions(table, (6, 6), prefix=2)
    chex.assert_trees_all_equal(variables["params"]["pos_embed"], expected)
    assert report.resized == ("pos_embed (1, 18, 32) -> (1, 38, 32)",)
    assert "resized: pos_embed" in str(report)


def test_another_number_of_classes_resets_the_heads(file):
    key = jax.random.key(3)
    model = make(7)
    variables, report = load_pretrained(model, file, key=key)
    assert len(report.reset) == 4
    assert "params/head/kernel" in report.reset
    assert "head.weight (10, 32), the model has (7, 32)" in report.unused
    images = jnp.zeros((1, 32, 32, 3))
    fresh = jit_once(model.init)(key, images)["params"]
    for head in ("head", "head_dist"):
        chex.assert_trees_all_close(variables["params"][head], fresh[head], rtol=1e-6)


def test_no_head_leaves_the_file_s_heads_unused(file):
    model = make(0)
    variables, report = load_pretrained(model, file)
    assert "head" not in variables["params"]
    assert len(report.unused) == 4


def test_a_head_that_is_absent_is_not_a_head_that_changed(tmp_path, state):
    del state["head_dist.weight"]
    with pytest.raises(UserError, match="lacks params/head_dist/kernel;"):
        load_pretrained(make(7), save(tmp_path, state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.norm1.bias"), "lacks params/blocks_1/norm1/bias;"),
        (lambda s: s.pop("head.weight"), "lacks params/head/kernel;"),
        (
            lambda s: s.update({"blocks.3.norm1.bias": np.zeros(32, "f4")}),
            "has unexpected blocks.3.norm1.bias;",
        ),
        (
            lambda s: s.update({"x": np.zeros(1, "f4"), "y": np.zeros(1, "f4")}),
            "has unexpected x and 1 more;",
        ),
        (
            lambda s: s.update({"norm.bias": np.zeros(31, "f4")}),
            r"norm.bias has shape \(31,\), the model expects \(32,\)",
        ),
        (
            lambda s: s.update({"cls_token": np.full((1, 1, 32), np.nan, "f4")}),
            "cls_token holds values that are not finite",
        ),
        (
            lambda s: s.update({"pos_embed": np.zeros((1, 17, 32), "f4")}),
            "17 rows is not 2 prefix tokens",
        ),
    ],
)
def test_damage_is_refused(change, message, tmp_path, state):
    change(state)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(make(), save(tmp_path, state))
    assert "\n" not in str(error.value)


def test_not_strict_draws_the_missing_and_reports_both(tmp_path, state):
    del state["blocks.1.norm1.weight"]
    state["extra"] = np.zeros(1, "f4")
    path = save(tmp_path, state)
    variables, report = load_pretrained(make(), path, strict=False)
    assert report.reset == ("params/blocks_1/norm1/scale",)
    assert report.unused == ("extra",)
    assert (variables["params"]["blocks_1"]["norm1"]["scale"] == 1).all()


def test_half_precision_files_become_the_parameter_dtype(tmp_path, state):
    half = {k: v.astype(np.float16) for k, v in state.items()}
    variables, _ = load_pretrained(make(), save(tmp_path, half))
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_files_that_are_not_weights(tmp_path, file):
    with pytest.raises(UserError, match="does not exist"):
        load_pretrained(make(), tmp_path / "none.safetensors")
    data = file.read_bytes()
    for cut in (len(data) - 1, len(data) // 2, 7, 0):
        file.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"not a complete \.safetensors") as error:
            load_pretrained(make(), file)
        assert "\n" not in str(error.value)

"""Files fitted and converted as timm and transformers do it; stored by
tests/golden/make_pretrained.py."""

import jax.numpy as jnp
import numpy as np
import pytest
import weight_files
from goldens import base_normal, load_golden
from model_goldens import jit_once
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.augreg import to_timm
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.weights import Weights


FITTED = load_golden("pretrained/fitted")[0]["cases"]
NPZ = load_golden("pretrained/converted")[0]["cases"]
VIT = "vit_tiny_patch16_224"


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def logits_of(model, variables):
    shape = (2, model.in_chans, *model.image_shape[:2])
    images = base_normal("input:pretrained", shape).transpose(0, 2, 3, 1)
    return jit_once(model.apply)(variables, jnp.asarray(images))[0]


@pytest.fixture(scope="module")
def deit_tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("deit") / "deit_tiny.safetensors"
    state = weight_files.timm_vit(d=192, depth=1, image=224, patch=16, classes=1000)
    save_file(state, path)
    return path


@pytest.mark.parametrize("case", FITTED)
def test_other_sizes_patches_and_channels_as_timm(case, deit_tiny):
    manifest, arrays = load_golden("pretrained/fitted")
    model = create_model(manifest["name"], depth=1, **FITTED[case])
    # 7 x 28 patches are as many as the file's 14 x 14; timm takes any for a square.
    grid = (14, 14) if model.grid == (7, 28) else None
    variables, report = load_pretrained(model, deit_tiny, grid=grid, verbose=False)
    state = reference_arrays(variables, manifest["name"])
    close(state["pos_embed"][..., :4], arrays[f"{case}:pos_embed"])
    key = "patch_embed.proj.weight"
    close(state[key][:4], arrays[f"{case}:{key}"])
    resized = {entry.split()[0] for entry in report.resized}
    expected = {key} if {"patch_size", "in_chans"} & FITTED[case].keys() else set()
    if model.grid != (14, 14):
        expected.add("pos_embed")
    assert resized == expected
    heads = {"params/head/kernel", "params/head/bias"}
    assert set(report.reset) == (heads if "num_classes" in FITTED[case] else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "prefix"),
    [*((case, "") for case in NPZ), ("augreg", "opt/target/"), ("augreg", "params/")],
)
def test_augreg_files_as_timm(case, prefix, tmp_path, capsys):
    _, arrays = load_golden("pretrained/converted")
    options = {"num_classes": 5, **weight_files.SMALL, **NPZ[case]}
    model = create_model(VIT, **options)
    path = tmp_path / "augreg.npz"
    np.savez(path, **{f"{prefix}{k}": v for k, v in weight_files.augreg().items()})
    kept = "num_classes" not in NPZ[case]  # with a head that pre_logits stood before
    if kept:
        with pytest.raises(UserError, match="its head stands behind pre_logits/kernel"):
            load_pretrained(model, path)
    variables, report = load_pretrained(model, path, strict=not kept)
    out = tmp_path / "out.safetensors"
    export_weights(variables, VIT, out)
    state = load_file(out)
    stored = {k.partition(":")[2]: v for k, v in arrays.items() if f"{case}:" in k}
    logits = stored.pop("logits", None)
    heads = {"head.weight", "head.bias"} if "num_classes" in NPZ[case] else set()
    assert state.keys() - heads == stored.keys()
    for key, expected in stored.items():
        close(state[key], expected)
    if logits is not None:
        close(logits_of(model, variables), logits)
    assert {"pre_logits/kernel", "pre_logits/bias"} <= set(report.unused)
    assert 'act_layer="gelu_tanh"' in report.notes[-1]
    assert ("behind pre_logits/kernel" in report.notes[0]) == kept
    assert capsys.readouterr().out == f"{report}\n"
    again, report = load_pretrained(model, out, verbose=False)
    assert not report.resized
    assert not report.reset
    close(logits_of(model, again), logits_of(model, variables))


def test_the_original_activation_needs_no_note(tmp_path):
    model = create_model(VIT, 5, **weight_files.SMALL, act_layer="gelu_tanh")
    arrays = weight_files.augreg()
    np.savez(
        tmp_path / "augreg.npz",
        **{k: v for k, v in arrays.items() if "pre_logits" not in k},
    )
    _, report = load_pretrained(model, tmp_path / "augreg.npz", verbose=False)
    assert report.notes == ()


def test_a_head_behind_another_layer(tmp_path):
    path = tmp_path / "augreg.npz"
    np.savez(path, **weight_files.augreg(classes=5))
    for classes in (0, 7):
        model = create_model(VIT, classes, **weight_files.SMALL)
        _, report = load_pretrained(model, path, verbose=False)
        assert {"pre_logits/kernel", "pre_logits/bias"} <= set(report.unused)
    model = create_model(VIT, 5, **weight_files.SMALL)
    with pytest.raises(UserError, match="another num_classes for a new head"):
        load_pretrained(model, path, verbose=False)
    variables, report = load_pretrained(model, path, strict=False, verbose=False)
    assert "the head was trained behind pre_logits/kernel" in report.notes[0]
    kernel = variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, weight_files.augreg(5)["head/kernel"])


@pytest.mark.parametrize("make", [weight_files.augreg, weight_files.transformers_vit])
def test_integers_in_a_part_of_a_projection(make, tmp_path):
    arrays = make()
    name = next(k for k in arrays if "key/kernel" in k or "attention.key.weight" in k)
    arrays[name] = np.zeros(arrays[name].shape, np.int8)
    np.savez(tmp_path / "w.npz", **arrays)
    model = create_model(VIT, 5, **weight_files.SMALL)
    with pytest.raises(UserError, match="holds int8, expected one of"):
        load_pretrained(model, tmp_path / "w.npz")


def test_siglip_files_as_timm(tmp_path):
    _, arrays = load_golden("pretrained/converted")
    converted = to_timm(Weights("file", weight_files.siglip()))
    stored = {k[7:]: v for k, v in arrays.items() if k.startswith("siglip:")}
    logits = stored.pop("logits")
    assert converted.arrays.keys() == stored.keys()
    for key, expected in stored.items():
        np.testing.assert_array_equal(converted.arrays[key], expected)
    name = "vit_base_patch16_siglip_224"
    model = create_model(name, 0, **weight_files.SMALL)
    np.savez(tmp_path / "siglip.npz", **weight_files.siglip())
    variables, report = load_pretrained(model, tmp_path / "siglip.npz", verbose=False)
    assert report.reset == ()
    dropped = {"params/txt/Embed_0/embedding", "params/t", "params/b"}
    assert set(report.unused) == dropped
    close(logits_of(model, variables), logits)
    export_weights(variables, name, tmp_path / "out.safetensors")
    state = load_file(tmp_path / "out.safetensors")
    assert state.keys() == stored.keys()
    for key, expected in stored.items():
        np.testing.assert_array_equal(state[key], expected)


def test_files_of_transformers(tmp_path):
    _, arrays = load_golden("pretrained/converted")
    model = create_model(VIT, 5, **weight_files.SMALL)
    path = tmp_path / "model.safetensors"
    save_file(weight_files.transformers_vit(), path)
    variables, report = load_pretrained(model, path, verbose=False)
    assert (report.reset, report.unused) == ((), ())
    close(logits_of(model, variables), arrays["transformers_vit:logits"])


def test_distilled_files_of_transformers(tmp_path):
    state = weight_files.transformers_vit()
    state = {k.replace("vit.", "deit.", 1): v for k, v in state.items()}
    for kind in ("weight", "bias"):
        head = state.pop(f"classifier.{kind}")
        state[f"cls_classifier.{kind}"] = head
        state[f"distillation_classifier.{kind}"] = head + 1
    table = base_normal("positions", (1, 18, 16))
    state["deit.embeddings.position_embeddings"] = table
    state["deit.embeddings.distillation_token"] = table[:, :1]
    state["deit.pooler.dense.weight"] = np.zeros((16, 16), np.float32)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    name = "deit_tiny_distilled_patch16_224"
    model = create_model(name, 5, **weight_files.SMALL)
    variables, report = load_pretrained(model, path, verbose=False)
    assert report.reset == ()
    assert report.unused == ("pooler.dense.weight",)
    out = reference_arrays(variables, name)
    np.testing.assert_array_equal(out["dist_token"], table[:, :1])
    difference = out["head_dist.weight"] - out["head.weight"]
    np.testing.assert_allclose(difference, 1, atol=1e-6)

"""What `export` says of a file is about that file, and zero points are in it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks.compress import Spec, calibrate, quantized_apply, standard_rules
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.export import proof, to_onnx_int8
from vit_jax_tricks.models import create_model


pytestmark = pytest.mark.usefixtures("home")
SMALL = [f"--model.{key}={value}" for key, value in weight_files.SMALL.items()]


def test_a_wrong_file_is_reported(folder, tmp_path, monkeypatch, capsys):
    """The file that is loaded again always answers class 1, a third of the pictures."""

    def wrong(content):
        assert content
        return lambda images: np.float32([[0, 1000, 0]] * len(images))

    monkeypatch.setattr(proof, "onnx_function", wrong)
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    monkeypatch.setattr(proof, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(proof, "BATCHES", (1,))
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3)
    save_file(state, tmp_path / "weights.safetensors")
    flags = ["--model=vit_tiny_patch16_224", f"--data=folder:{folder}", "--json"]
    files = [f"--weights={tmp_path}/weights.safetensors", f"--out={tmp_path}/a.onnx"]
    assert export.main([*flags, *files, *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 21  # those of the split, without padding
    assert found["jax"]["max_difference"] > 900
    assert found["jax"]["accuracy"] == pytest.approx(7 / 21)


def test_int8_files_have_the_zero_points():
    """Weights and learned activations whose ranges do not lie about zero."""
    model = create_model(
        "vit_tiny_patch16_224",
        3,
        img_size=8,
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
    )
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(1), images, train=False))()

    def shifted(path, leaf):
        rng = np.random.default_rng(leaf.size)
        noise = 0.3 * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(noise + (0.4 if path[-1].key == "kernel" else 0.8))

    variables = jax.tree_util.tree_map_with_path(shifted, variables)
    rules = standard_rules(
        Spec("int8", symmetric=False, per_channel=True),
        Spec("uint8", symmetric=False, learned=True),
    )
    ranges = calibrate(model, variables, [images], rules)
    for kind in ("/kernel", "/input"):
        places = [place for name, place in ranges.items() if name.endswith(kind)]
        assert any(np.any(np.asarray(place.zero_point) != 0) for place in places)
    file = to_onnx_int8(model, variables, ranges, rules, model.image_shape)
    found = proof.onnx_function(file.SerializeToString())(np.asarray(images))
    apply = jax.jit(lambda x: quantized_apply(model, variables, x, ranges, rules)[0])
    want, plain = apply(images), model.apply(variables, images, train=False)[0]
    lost = np.abs(want - plain).max()
    assert np.median(np.abs(found - want)) < 1e-4
    assert np.abs(found - want).max() < max(lost, 1e-3)

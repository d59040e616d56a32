"""Damaged weight files and exports: one line, or the result of sound ones.

A failure names its case: `pytest tests/test_fuzz_files.py -m slow -k 'npz and 17'`.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
import runs
import weight_files
from damage import damage_file
from outcomes import ranked, refused, small_picture
from safetensors.numpy import save_file

from vit_jax_tricks import evaluate, predict
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import load, to_onnx, to_stablehlo
from vit_jax_tricks.models import create_model


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    return small_picture(tmp_path_factory.mktemp("picture"))


@pytest.fixture(scope="module")
def cache() -> dict[str, list[str]]:
    """What `predict` prints by sound files."""
    return {}


# Weight files.

MODEL = ["--model=vit_tiny_patch16_224"]
MODEL += [f"--model.{key}={value}" for key, value in weight_files.SMALL.items()]


def weights(path: Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, **weight_files.augreg())
        return
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)
    if path.suffix == ".pth":
        import torch

        torch.save({k: torch.from_numpy(v) for k, v in state.items()}, path)
    else:
        save_file(state, path)


def check_weights(name, seed, cache, picture, tmp_path, capsys) -> str:
    """Predicts by a damaged weight file; returns how it ended."""

    def call():
        args = (*MODEL, f"--weights={path}", picture)
        return runs.call(capsys, predict.main, *args)

    path = tmp_path / name
    weights(path)
    if name not in cache:
        cache[name] = ranked(call()[1])
    what = damage_file(path, f"{name} {seed}")
    before = runs.snapshot(tmp_path)
    result = call()
    assert runs.snapshot(tmp_path) == before, what
    if refused(result, what):
        return "refused"
    found = ranked(result[1])
    assert len(found) == len(cache[name]) == 5, what
    if found == cache[name]:
        return "equal"
    # The format has no checksum, and what was changed is the numbers of one array.
    assert name.endswith(".safetensors"), what
    assert what in ("flip", "zeros"), what
    return "other numbers"


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", ["w.safetensors", "w.npz"])
def test_weights(name, seed, cache, picture, tmp_path, capsys, record_property):
    found = check_weights(name, seed, cache, picture, tmp_path, capsys)
    record_property("outcome", found)


@pytest.mark.parametrize("seed", range(15))
def test_weights_of_torch(
    seed, cache, picture, tmp_path, capsys, record_property, torch
):
    found = check_weights("w.pth", seed, cache, picture, tmp_path, capsys)
    record_property("outcome", found)


# Exported models.


@pytest.fixture(scope="module")
def exported(home):
    """A file, and what its function makes of some images."""
    model = create_model("vit_tiny_patch16_224", 3, **weight_files.SMALL)
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    content = to_stablehlo(model, variables, model.image_shape)
    return content, images, np.asarray(load(content)(images))


@pytest.fixture(scope="module")
def files(exported) -> dict[str, bytes]:
    """Exported files of both formats."""
    model = create_model("vit_tiny_patch16_224", 3, **weight_files.SMALL)
    content, images, _ = exported
    variables = jax.jit(model.init)(jax.random.key(0), images)
    graph = to_onnx(model, variables, model.image_shape)
    return {"m.onnx": graph.SerializeToString(), "m.stablehlo": content}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["m.onnx", "m.stablehlo"])
def test_an_export_is_no_weight_file(
    name, seed, files, picture, tmp_path, capsys, record_property
):
    """Whole or damaged: a command that wants weights says so in one line."""
    path = tmp_path / name
    path.write_bytes(files[name])
    what = damage_file(path, f"{name} {seed}") if seed else "nothing"
    before = runs.snapshot(tmp_path)
    door, more = (evaluate, ["--data=digits"]) if seed % 2 else (predict, [picture])
    result = runs.call(capsys, door.main, *MODEL, f"--weights={path}", *more)
    assert refused(result, what), what
    assert runs.snapshot(tmp_path) == before, what
    record_property("outcome", "refused")


@pytest.mark.parametrize("seed", range(15))
def test_an_export(seed, exported, tmp_path, record_property):
    content, images, expected = exported
    path = tmp_path / "model.stablehlo"
    path.write_bytes(content)
    what = damage_file(path, f"export {seed}")
    damaged = path.read_bytes()
    if damaged != content:
        with pytest.raises(UserError, match=r"\A[^\n]+\Z"):
            load(damaged)
        return record_property("outcome", "refused")
    function = load(damaged)
    np.testing.assert_array_equal(function(images), expected, err_msg=what)
    return record_property("outcome", "equal")

"""A teacher that cannot be had is one line that names what was typed in the config."""

import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks import data
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import model_spec
from vit_jax_tricks.runs.trained import Trained
from vit_jax_tricks.teach import teachers


VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def source(home):
    return data.build("digits")


def refused(source, place, part):
    with pytest.raises(UserError) as caught:
        teachers.load([place], needs=frozenset(), source=source, dtype="float32")
    text = str(caught.value)
    assert text.startswith(f'config.teacher.sources, "{place}": '), text
    assert part in text
    assert "--" not in text, "a flag that nobody typed"
    assert "\n" not in text


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("none", "/none does not exist; give the workdir of a run, or NAME@WEIGHTS"),
        ("runs/none", "/runs/none does not exist; give the workdir of a run"),
        ("empty", "holds no run with a readable model.json"),
        (
            "w.safetensors",
            "w.safetensors is a file; give the workdir of a run, or NAME",
        ),
        (f"{VIT}@none.safetensors", "none.safetensors does not exist"),
        (f"{VIT}@empty", "holds no checkpoints"),
        (f"{VIT}@text", "is not a complete weight file"),
        ("vit_tny@w.safetensors", "vit_tny"),
        ("@w.safetensors", "no model is named before the @"),
    ],
)
def test_sources(source, tmp_path, monkeypatch, place, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no weights")
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3)
    save_file(state, tmp_path / "w.safetensors")
    refused(source, place, part)


def test_other_channels(source, monkeypatch):
    spec = model_spec.named(VIT, resize=None, num_classes=10)
    trained = Trained(spec, spec.create(), {"": {}}, "weights")
    monkeypatch.setattr(teachers, "_trained", lambda *_: trained)
    refused(source, "runs/colour", "digits has 1 channel(s), but this teacher takes 3")


def test_other_classes(source, monkeypatch):
    spec = model_spec.named(VIT, resize=None, num_classes=3, in_chans=1)
    trained = Trained(spec, spec.create(), {"": {}}, "weights")
    monkeypatch.setattr(teachers, "_trained", lambda *_: trained)
    refused(source, "runs/three", "digits has 10 classes, but the model has 3;")

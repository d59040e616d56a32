"""Files of every kind and the hub as sources."""

import sys
import types

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained, relatives_rules
from vit_jax_tricks.pretrained.sources import classes_of, read_source


VIT = "vit_tiny_patch16_224"
NAMES = relatives_rules.VIT


def model(classes=5, **overrides):
    return create_model(VIT, classes, **weight_files.SMALL | overrides)


@pytest.fixture(scope="module")
def state():
    return weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)


@pytest.fixture(scope="module")
def expected(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "weights.safetensors"
    save_file(state, path)
    return load_pretrained(model(), path, verbose=False)[0]


class TestHub:
    @pytest.fixture
    def hub(self, state, tmp_path, monkeypatch):
        """A module in place of huggingface_hub; what it is asked for is kept."""
        save_file(state, tmp_path / "model.safetensors")
        hub = types.ModuleType("huggingface_hub")
        hub.asked = []

        def download(repository, file, revision):
            hub.asked.append((repository, file, revision))
            return str(tmp_path / file)

        hub.hf_hub_download = download
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        return hub

    @pytest.mark.parametrize(
        ("source", "revision"),
        [("hub:timm/vit_tiny.x-y", None), ("hub:timm/vit_tiny.x-y@v1.0", "v1.0")],
    )
    def test_the_repository_s_file(self, source, revision, hub, expected):
        variables, report = load_pretrained(model(), source, verbose=False)
        assert hub.asked == [("timm/vit_tiny.x-y", "model.safetensors", revision)]
        assert report.source == source
        chex.assert_trees_all_equal(variables, expected)

    def test_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(UserError, match=r"pip install 'vit_jax_tricks\[hub\]'"):
            load_pretrained(model(), "hub:timm/vit")

    def test_offline(self, hub):
        def download(*_, **__):
            raise ConnectionError("no route to host\nmore lines")

        hub.hf_hub_download = download
        with pytest.raises(UserError, match="no route to host") as error:
            load_pretrained(model(), "hub:timm/vit")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("source", ["hub:", "hub:timm", "hub:a/b/c", "hub:a/b@"])
    def test_malformed(self, source, hub):
        with pytest.raises(UserError, match="expected hub:owner/name"):
            load_pretrained(model(), source)
        assert hub.asked == []


def test_bfloat16_in_npz_and_safetensors(state, tmp_path):
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    np.savez(tmp_path / "half.npz", **half)  # without a name for the type
    first, _ = load_pretrained(model(), tmp_path / "half.safetensors", verbose=False)
    second, _ = load_pretrained(model(), tmp_path / "half.npz", verbose=False)
    chex.assert_trees_all_equal(first, second)
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize(
    ("plain", "averaged"),
    [("model.", "ema."), ("module.", "ema_model.module."), ("", "model_ema.")],
)
def test_averages_beside_plain_weights_in_one_file(
    plain, averaged, suffix, state, tmp_path
):
    arrays = {plain + name: array + 1 for name, array in state.items()}
    arrays |= {averaged + name: array for name, array in state.items()}
    path = tmp_path / f"w{suffix}"
    save_file(arrays, path) if suffix == ".safetensors" else np.savez(path, **arrays)
    for ema in (None, True):
        weights = read_source(path, NAMES, ema=ema)
        assert weights.averaged
        chex.assert_trees_all_equal(dict(weights.arrays), state)
    note = read_source(path, NAMES).notes[0]
    assert "the averaged weights below" in note
    weights = read_source(path, NAMES, ema=False)
    assert (weights.averaged, weights.notes) == (False, ())
    expected = {name: array + 1 for name, array in state.items()}
    chex.assert_trees_all_equal(dict(weights.arrays), expected)


def test_keys_of_both_kinds_draw_the_same_head(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    other = model(3)

    def drawn(key):
        return load_pretrained(
            other, tmp_path / "w.safetensors", key=key, verbose=False
        )[0]

    chex.assert_trees_all_equal(drawn(jax.random.key(3)), drawn(jax.random.PRNGKey(3)))
    with pytest.raises(UserError, match=r"key is 3; expected .*jax.random.key\(0\)"):
        drawn(3)


def test_how_many_classes_a_file_has(state, tmp_path):
    save_file(state, tmp_path / "timm.safetensors")
    np.savez(tmp_path / "augreg.npz", **weight_files.augreg(classes=7))
    for file, count in (("timm.safetensors", 5), ("augreg.npz", 7)):
        weights = read_source(tmp_path / file, NAMES)
        assert classes_of(weights, NAMES) == count
    del state["head.bias"], state["head.weight"]
    save_file(state, tmp_path / "headless.safetensors")
    weights = read_source(tmp_path / "headless.safetensors", NAMES)
    assert classes_of(weights, NAMES) is None

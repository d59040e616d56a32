"""Files of every kind and the hub as sources."""

import argparse
import sys
import types

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import weight_files
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.sources import classes_of, read_source


VIT = "vit_tiny_patch16_224"
FAMILY = "VisionTransformer"


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


class TestPth:
    """With torch, where it is installed."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    def save(self, path, state, wrap=lambda s: s, **options):
        tensors = {k: self.torch.from_numpy(v.copy()) for k, v in state.items()}
        self.torch.save(wrap(tensors), path, **options)
        return path

    @pytest.mark.parametrize("ending", [".pth", ".pth.tar", ".pt"])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: s,
            lambda s: {"model": s, "epoch": 3, "args": argparse.Namespace(lr=1)},
            lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
            lambda s: {"state_dict": {"head.bias": 0}, "state_dict_ema": s},
            lambda s: {"model_ema": {f"module._orig_mod.{k}": s[k] for k in s}},
            lambda s: {"model": {"state_dict": s}},
        ],
    )
    def test_containers(self, wrap, ending, state, expected, tmp_path):
        path = self.save(tmp_path / f"weights{ending}", state, wrap)
        variables, report = load_pretrained(model(), path, verbose=False)
        chex.assert_trees_all_equal(variables, expected)
        assert not report.unused

    def test_the_format_before_1_6(self, state, expected, tmp_path):
        path = tmp_path / "old.pth"
        self.save(path, state, _use_new_zipfile_serialization=False)
        variables, _ = load_pretrained(model(), path, verbose=False)
        chex.assert_trees_all_equal(variables, expected)

    def test_a_keyword_chooses_the_averages(self, state, tmp_path):
        def wrap(s):
            raw = {k: v + 1 for k, v in s.items()}
            return {"state_dict": raw, "state_dict_ema": s}

        path = self.save(tmp_path / "both.pth", state, wrap)
        bias = {
            ema: read_source(path, FAMILY, ema=ema).arrays["head.bias"]
            for ema in (None, True, False)
        }
        np.testing.assert_array_equal(bias[None], state["head.bias"])
        np.testing.assert_array_equal(bias[True], state["head.bias"])
        np.testing.assert_array_equal(bias[False], state["head.bias"] + 1)
        path = self.save(tmp_path / "raw.pth", state, lambda s: {"model": s})
        with pytest.raises(UserError, match="holds no averaged weights"):
            read_source(path, FAMILY, ema=True)

    def test_bfloat16(self, tmp_path):
        values = self.torch.arange(5).to(self.torch.bfloat16)
        self.torch.save({"head.bias": values}, tmp_path / "half.pth")
        weights = read_source(tmp_path / "half.pth", FAMILY)
        np.testing.assert_array_equal(weights.arrays["head.bias"], np.arange(5.0))

    def test_a_file_that_holds_itself(self, tmp_path):
        loop = {}
        loop["model"] = loop
        self.torch.save(loop, tmp_path / "loop.pth")
        with pytest.raises(UserError, match="holds no arrays"):
            read_source(tmp_path / "loop.pth", FAMILY)

    def test_a_tensor_alone(self, tmp_path):
        self.torch.save(self.torch.ones(3), tmp_path / "tensor.pt")
        with pytest.raises(UserError, match="holds a Tensor, not tensors by name"):
            read_source(tmp_path / "tensor.pt", FAMILY)

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_a_torchscript_archive_is_refused(self, tmp_path):
        module = self.torch.jit.script(self.torch.nn.Linear(2, 2))
        self.torch.jit.save(module, tmp_path / "clip.pt")
        with pytest.raises(UserError, match=r"torch\.jit\.load"):
            read_source(tmp_path / "clip.pt", FAMILY)


def test_pth_through_a_stand_in_for_torch(state, expected, tmp_path, monkeypatch):
    """What is asked of torch: the file, on the CPU, weights only."""
    asked = {}

    class Tensor:
        dtype = "float32"

        def __init__(self, array):
            self.array = array

        def detach(self):
            return self

        def numpy(self):
            return self.array

    def load(path, **options):
        asked[path] = options
        tensors = {f"module.{k}": Tensor(v) for k, v in state.items()}
        return {"state_dict_ema": tensors | {"steps": 3}, "state_dict": {}}

    torch = types.ModuleType("torch")
    torch.load, torch.Tensor, torch.bfloat16 = load, Tensor, "bfloat16"
    torch.serialization = argparse.Namespace(safe_globals=_Allowing)
    monkeypatch.setitem(sys.modules, "torch", torch)
    path = tmp_path / "weights.pth.tar"
    path.write_bytes(b"\x80\x02")
    variables, _ = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)
    assert asked == {path: {"map_location": "cpu", "weights_only": True}}


class _Allowing:
    def __init__(self, classes):
        assert classes == [argparse.Namespace]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_without_torch_one_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match=r"pip install 'vit_jax_tricks\[torch\]'"):
        read_source(tmp_path / "weights.pth", FAMILY)


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


def test_a_grid_that_is_no_square(state, tmp_path):
    wide = model(img_size=(8, 32))  # 2 x 8 patches, as many as 4 x 4
    path = tmp_path / "wide.safetensors"
    save_file(state, path)
    variables, report = load_pretrained(wide, path, grid=(2, 8), verbose=False)
    out = tmp_path / "out.safetensors"
    export_weights(variables, VIT, out)
    chex.assert_trees_all_equal(load_file(out), state)
    assert not report.resized
    _, report = load_pretrained(wide, path, verbose=False)  # taken for a square
    assert report.resized == ("pos_embed (1, 17, 16) -> (1, 17, 16)",)
    with pytest.raises(UserError, match=r"a grid of 3 rows.* give the file's grid="):
        load_pretrained(wide, path, grid=(3, 3))


def test_how_many_classes_a_file_has(state, tmp_path):
    save_file(state, tmp_path / "timm.safetensors")
    np.savez(tmp_path / "augreg.npz", **weight_files.augreg(classes=7))
    for file, count in (("timm.safetensors", 5), ("augreg.npz", 7)):
        weights = read_source(tmp_path / file, FAMILY)
        assert classes_of(weights, FAMILY) == count
    del state["head.bias"], state["head.weight"]
    save_file(state, tmp_path / "headless.safetensors")
    weights = read_source(tmp_path / "headless.safetensors", FAMILY)
    assert classes_of(weights, FAMILY) is None

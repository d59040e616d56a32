"""PyTorch's files, read by the real torch: containers, averages, damage, types."""

import argparse
import sys
import types

import chex
import numpy as np
import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import kinds, load_pretrained, relatives_rules
from vit_jax_tricks.pretrained.files import read_weights
from vit_jax_tricks.pretrained.sources import read_source


NAMES = relatives_rules.VIT


def model():
    return create_model("vit_tiny_patch16_224", 5, **weight_files.SMALL)


@pytest.fixture(scope="module")
def state():
    return weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)


@pytest.fixture(scope="module")
def expected(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "weights.safetensors"
    save_file(state, path)
    return load_pretrained(model(), path, verbose=False)[0]


def saved(torch, path, state, wrap=lambda s: s, **options):
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    torch.save(wrap(tensors), path, **options)
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
def test_containers(torch, wrap, ending, state, expected, tmp_path):
    path = saved(torch, tmp_path / f"weights{ending}", state, wrap)
    variables, report = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)
    assert not report.unused


def test_the_format_before_1_6(torch, state, expected, tmp_path):
    path = tmp_path / "old.pth"
    saved(torch, path, state, _use_new_zipfile_serialization=False)
    variables, _ = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)


def test_a_keyword_chooses_the_averages(torch, state, tmp_path):
    def wrap(s):
        raw = {k: v + 1 for k, v in s.items()}
        return {"state_dict": raw, "state_dict_ema": s}

    path = saved(torch, tmp_path / "both.pth", state, wrap)
    bias = {
        ema: read_source(path, NAMES, ema=ema).arrays["head.bias"]
        for ema in (None, True, False)
    }
    np.testing.assert_array_equal(bias[None], state["head.bias"])
    np.testing.assert_array_equal(bias[True], state["head.bias"])
    np.testing.assert_array_equal(bias[False], state["head.bias"] + 1)
    path = saved(torch, tmp_path / "raw.pth", state, lambda s: {"model": s})
    with pytest.raises(UserError, match="holds no averaged weights"):
        read_source(path, NAMES, ema=True)


def test_bfloat16(torch, tmp_path):
    values = torch.arange(5).to(torch.bfloat16)
    torch.save({"head.bias": values}, tmp_path / "half.pth")
    weights = read_source(tmp_path / "half.pth", NAMES)
    np.testing.assert_array_equal(weights.arrays["head.bias"], np.arange(5.0))


def test_a_file_that_holds_itself(torch, tmp_path):
    loop = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(UserError, match="holds no arrays"):
        read_source(tmp_path / "loop.pth", NAMES)


def test_a_tensor_alone(torch, tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="holds a Tensor, not tensors by name"):
        read_source(tmp_path / "tensor.pt", NAMES)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(torch, tmp_path):
    module = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(module, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=r"torch\.jit\.load"):
        read_source(tmp_path / "clip.pt", NAMES)


def changed(tensors, by=1):
    return {name: tensor + by for name, tensor in tensors.items()}


def prefixed(tensors, prefix):
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


SHADOW = {"decay": 0.9, "num_updates": 3}
AVERAGES = {
    **{
        name: lambda s, name=name: {"model": changed(s), name: s, "epoch": 3}
        for name in (
            *("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model"),
            *("model_ema_state_dict", "EMA", "ModelEMA", "modelEma", "averaged"),
            *("averaged_model", "avg_model", "swa", "swa_state_dict", "params_ema"),
            *("ema_0.999", "model_avg", "averages", "shadow", "polyak_weights"),
        )
    },
    "module.": lambda s: {"model": changed(s), "ema": prefixed(s, "module")},
    "module": lambda s: {"model": changed(s), "model_ema": {"module": s, **SHADOW}},
    "student": lambda s: {"student": changed(s), "teacher": s, "optimizer": {0: 1}},
    "inside": lambda s: {"state_dict": {"net": changed(s), "net_ema": s}, "epoch": 3},
    "names": lambda s: {
        "state_dict": prefixed(changed(s), "model") | prefixed(s, "ema_model.module")
    },
    "ema_pytorch": lambda s: (
        prefixed(changed(s), "online_model") | prefixed(s, "ema_model")
    ),
}


@pytest.mark.parametrize("wrap", AVERAGES.values(), ids=AVERAGES)
def test_averages_of_any_name(torch, wrap, state, tmp_path):
    def read(ema):
        return read_weights(path, ema=ema)

    path = saved(torch, tmp_path / "w.pth", state, wrap)
    for ema in (None, True):
        weights = read(ema)
        assert weights.averaged
        chex.assert_trees_all_equal(weights.arrays, state)
    assert "the averaged weights below" in read(None).notes[0]
    assert len(read(None).notes) == 1
    plain = read(False)
    assert (plain.averaged, plain.notes) == (False, ())
    chex.assert_trees_all_equal(plain.arrays, {k: v + 1 for k, v in state.items()})


def test_torch_s_own_averages(torch, tmp_path):
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3))
    averaged = torch.optim.swa_utils.AveragedModel(plain)
    with torch.no_grad():
        plain[0].bias.add_(1)
    averaged.update_parameters(plain)
    kept = {k: v.numpy() for k, v in averaged.module.state_dict().items()}
    torch.save(averaged.state_dict(), tmp_path / "w.pth")
    for ema in (None, True):
        weights = read_weights(tmp_path / "w.pth", ema=ema)
        assert weights.averaged
        chex.assert_trees_all_equal(weights.arrays, kept)
    with pytest.raises(UserError, match=r"ema=False: .* holds averaged weights alone"):
        read_weights(tmp_path / "w.pth", ema=False)
    torch.save(
        {"model": plain.state_dict(), "swa_model": averaged.state_dict()},
        tmp_path / "w.pth",
    )
    chex.assert_trees_all_equal(read_weights(tmp_path / "w.pth").arrays, kept)


def test_the_report_says_which_were_taken(torch, state, expected, tmp_path):
    wrap = lambda s: {"model": changed(s), "ema": s}  # noqa: E731
    path = saved(torch, tmp_path / "w.pth", state, wrap)
    variables, report = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)
    assert 'averaged weights below "ema" were taken; ema=False' in report.notes[0]


PASSED = {
    "teacher": lambda s: {"model": s, "teacher": changed(s)},
    "generator": lambda s: {"model": s, "generator": {"sub": changed(s)}},
    "ema": lambda s: {"model": s, "ema": {"shadow_params": list(s.values())}},
    "ema_params": lambda s: {"model": s, "ema_params": list(s.values())},
    "callbacks.EMA.weights": lambda s: {
        "state_dict": s,
        "callbacks": {"EMA": {"weights": changed(s), "step": 3}, "Stop": {"wait": 0}},
    },
}


@pytest.mark.parametrize("name", PASSED)
def test_what_is_passed_over_is_named(torch, name, state, tmp_path):
    path = saved(torch, tmp_path / "w.pth", state, PASSED[name])
    weights = read_weights(path)
    assert weights.notes == (f'the file also holds "{name}": not read',)
    chex.assert_trees_all_equal(weights.arrays, state)
    with pytest.raises(UserError, match=f'no averaged weights by name .*"{name}"'):
        read_weights(path, ema=True)


def test_a_container_of_an_unknown_name(torch, state, tmp_path):
    random = torch.zeros(9, dtype=torch.uint8)
    wrap = lambda s: {"vit": s, "rng_state": random, "optimizer": {"s": s}}  # noqa: E731
    path = saved(torch, tmp_path / "w.pth", state, wrap)
    weights = read_weights(path)
    chex.assert_trees_all_equal(weights.arrays, state)
    assert weights.notes == ('the weights are those below "vit"',)
    path = saved(torch, tmp_path / "w.pth", state, lambda s: {"vit": s, "bert": s})
    with pytest.raises(UserError, match=r"several state dicts \(vit, bert\)"):
        read_weights(path)


def test_averages_without_names_alone(torch, tmp_path):
    shadow = {"ema": {"shadow_params": [torch.ones(2)]}}
    torch.save(shadow, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r'no arrays by name \(it holds "ema"\)'):
        read_weights(tmp_path / "w.pth")


def test_many_containers_that_hold_themselves(torch, tmp_path):
    loop = {}
    loop |= {f"part{i}": loop for i in range(200)}
    torch.save(loop, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no arrays"):
        read_weights(tmp_path / "w.pth")


TYPES = {
    "float8_e4m3fn": lambda torch, x: x.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda torch, x: x.to(torch.float8_e5m2),
    "complex64": lambda torch, x: x.to(torch.complex64),
    "uint16": lambda torch, x: x.to(torch.uint16),
    "qint8": lambda torch, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "a sparse tensor": lambda torch, x: x.to_sparse(),
    "no values": lambda torch, x: x.to("meta"),
    "a nested tensor": lambda torch, x: torch.nested.nested_tensor([x, x[:1]]),
}


@pytest.mark.filterwarnings("ignore")  # torch means to drop some of these types
@pytest.mark.parametrize("name", TYPES)
def test_tensors_without_plain_values(torch, name, tmp_path):
    tensors = {"norm.weight": TYPES[name](torch, torch.ones(2, 3))}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"norm.weight holds {name}") as error:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
def test_integers_are_no_weights(torch, dtype, state, tmp_path):
    dtype = getattr(torch, dtype)
    wrap = lambda s: s | {"norm.bias": s["norm.bias"].to(dtype)}  # noqa: E731
    path = saved(torch, tmp_path / "w.pth", state, wrap)
    with pytest.raises(UserError, match=r"norm\.bias holds .*, expected one of"):
        load_pretrained(model(), path, verbose=False)


def test_parameters_views_and_halves(torch, tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "parameter": torch.nn.Parameter(x),
        "transposed": x.T,
        "negative": torch._neg_view(x),
        "half": x.half(),
        "double": x.double(),
    }
    torch.save(tensors, tmp_path / "w.pth")
    arrays = read_weights(tmp_path / "w.pth").arrays
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(arrays["parameter"], x)
    np.testing.assert_array_equal(arrays["transposed"], x.T)
    np.testing.assert_array_equal(arrays["negative"], -x)
    assert (arrays["half"].dtype, arrays["double"].dtype) == ("float16", "float64")


def test_one_number_in_place_of_a_terabyte(torch, tmp_path):
    torch.save({"a": torch.ones(1).expand(2**38)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="which no weight file does"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_cut_anywhere_or_damaged(torch, new, tmp_path):
    path = tmp_path / "w.pth"
    tensors = {"a": torch.arange(3.0)}
    torch.save(tensors, path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    assert kinds.kind(path) == kinds.PTH
    step = len(data) // 120
    for at in range(0, len(data), step):
        for damaged in (
            data[:at],
            data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :],
        ):
            path.write_bytes(damaged)
            refused = "it was read"
            try:
                read_weights(path)
            except UserError as error:
                refused = str(error)
            assert "\n" not in refused
            assert len(damaged) == len(data) or refused != "it was read"


def test_checksums_are_compared_where_there_are_any(torch, state, tmp_path):
    """By hand, as torch itself reads over a changed byte."""
    path = tmp_path / "w.pth"
    for sums in (True, False):
        torch.serialization.set_crc32_options(sums)
        try:
            saved(torch, path, state)
        finally:
            torch.serialization.set_crc32_options(True)
        chex.assert_trees_all_equal(read_weights(path).arrays, state)
    saved(torch, path, state)
    values = state["head.weight"].tobytes()
    path.write_bytes(path.read_bytes().replace(values, values[::-1]))
    with pytest.raises(UserError, match=r"not a complete PyTorch file .*CRC-32"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w", "pytorch_model.bin", "w.ckpt", "w.safetensors"])
def test_the_ending_may_be_any(torch, name, state, tmp_path):
    path = saved(torch, tmp_path / name, state)
    chex.assert_trees_all_equal(read_weights(path).arrays, state)


def test_names_below_a_module_of_lightning(torch, state, expected, tmp_path):
    wrap = lambda s: {"state_dict": prefixed(s, "model"), "loops": {}}  # noqa: E731
    path = saved(torch, tmp_path / "last.ckpt", state, wrap)
    variables, report = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)
    assert (report.unused, report.notes) == ((), ())


def test_pth_through_a_stand_in_for_torch(state, expected, tmp_path, monkeypatch):
    """What is asked of torch: the file, on the CPU, weights only."""
    asked = {}

    class Tensor:
        dtype, layout, device = (
            "torch.float32",
            "strided",
            types.SimpleNamespace(type="cpu"),
        )
        is_nested = False

        def __init__(self, array):
            self.array = array

        def numel(self):
            return self.array.size

        def element_size(self):
            return self.array.itemsize

        def detach(self):
            return self

        resolve_neg = detach

        def numpy(self):
            return self.array

    def load(file, **options):
        asked[file.name] = options
        tensors = {f"module.{k}": Tensor(v) for k, v in state.items()}
        return {"state_dict_ema": tensors | {"steps": 3}, "state_dict": {}}

    torch = types.ModuleType("torch")
    torch.load, torch.Tensor, torch.bfloat16 = load, Tensor, "bfloat16"
    torch.strided = "strided"
    torch.serialization = argparse.Namespace(safe_globals=_Allowing)
    monkeypatch.setitem(sys.modules, "torch", torch)
    path = tmp_path / "weights.pth.tar"
    path.write_bytes(kinds.OLD_TORCH)
    variables, _ = load_pretrained(model(), path, verbose=False)
    chex.assert_trees_all_equal(variables, expected)
    assert asked == {str(path): {"map_location": "cpu", "weights_only": True}}


class _Allowing:
    def __init__(self, classes):
        assert classes == [argparse.Namespace]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_without_torch_one_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(kinds.OLD_TORCH)
    with pytest.raises(UserError, match=r"pip install 'vit_jax_tricks\[torch\]'"):
        read_source(tmp_path / "weights.pth", NAMES)

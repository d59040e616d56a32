"""The command `export`: its files, what it says of them, every mistake one line."""

import json
import os
import signal
import sys

import numpy as np
import onnx
import pytest
import runs
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks import export as package
from vit_jax_tricks.commands import export_verdict as verdict
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.export import exporting, load, proof


pytestmark = pytest.mark.usefixtures("home")
SMALL = [f"--model.{key}={value}" for key, value in weight_files.SMALL.items()]
GIVEN = ("--model=vit_tiny_patch16_224", "--weights=weights.safetensors", *SMALL)
ROOM = ("--check=8", "--calibration=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights with a head of 3 and pictures of three classes."""
    folder = tmp_path_factory.mktemp("export")
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3)
    save_file(state, folder / "weights.safetensors")
    for split in ("train", "test"):
        runs.pictures(folder / "pictures" / split)
    return folder


@pytest.fixture
def command(folder, capsys, monkeypatch):
    """Exit status, output and errors of the command, run inside the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    monkeypatch.setattr(proof, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(proof, "BATCHES", (1, 2))

    def run(*args, given=GIVEN):
        status = export.main([*given, *args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_float(command, folder):
    status, out, err = command("--out=a.onnx", "--check=8", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["jax"]["max_difference"] < 1e-5
    assert found["jax"]["top1_agreement"] == 1
    assert found["data"] == "random images"
    assert found["images"] == 8
    assert {*found["latency_ms"]} == {"onnx", "jax"}
    assert {*found["latency_ms"]["onnx"]} == {"1", "2"}
    file = onnx.load(folder / "a.onnx")
    described = {p.key: p.value for p in file.metadata_props}
    assert described["model"] == "vit_tiny_patch16_224"
    prepared = json.loads(described["preprocessing"])
    assert prepared["mean"] == [0.5, 0.5, 0.5]
    assert (prepared["size"], prepared["crop_pct"]) == ([16, 16], 0.9)
    assert found["megabytes"] * 1e6 == (folder / "a.onnx").stat().st_size
    assert "max difference" in err
    assert "batch 2" in err


def test_int8(command, folder):
    status, out, err = command(
        "--out=b.onnx", "--int8", "--data=folder:pictures", "--json", *ROOM
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["fake_quant"]["max_difference"] < 1e-2
    assert found["fake_quant"]["top1_agreement"] == 1
    assert "accuracy" in found["float"]
    assert found["tensorrt_problems"] == []
    assert found["megabytes"] < found["megabytes_float"]
    assert {*found["latency_ms"]} == {"onnx", "float"}
    assert "not run here" in err
    assert (folder / "b.onnx").stat().st_size == found["megabytes"] * 1e6


def test_stablehlo(command, folder):
    status, _, err = command("--out=c.stablehlo", "--format=stablehlo", "--check=4")
    assert (status, err) == (0, "")
    function = load((folder / "c.stablehlo").read_bytes())
    assert function(np.zeros((5, 16, 16, 3), np.float32)).shape == (5, 3)
    described = json.loads((folder / "c.stablehlo.json").read_text())
    assert described["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.slow
def test_a_run(run, capsys, tmp_path):
    args = [f"--workdir={run}", "--int8", "--json", *ROOM]
    assert export.main([*args, f"--out={tmp_path / 'd.onnx'}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == "digits"
    file = onnx.load(tmp_path / "d.onnx")
    described = {p.key: p.value for p in file.metadata_props}
    names = json.loads((run / "classes.json").read_text())
    assert json.loads(described["labels"]) == names


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "--out=None: give a file name that ends in .onnx"),
        (("--out=a.bin",), "ends in .onnx"),
        (("--out=a.onnx", "--format=stablehlo"), "ends in .stablehlo"),
        (("--out=a.onnx", "--format=onx"), 'Did you mean "onnx"?'),
        (("--out=no/a.onnx",), "/no does not exist; give a file in a folder"),
        (("--out=weights.safetensors/a.onnx",), "is not a folder; give a file in a"),
        (("--out=folder.onnx",), "is a folder; give the name of a file in it"),
        (("--out=/proc/a.onnx",), "--out=/proc/a.onnx cannot be written"),
        (("--out=a.onnx", "--int8"), "--int8 calibrates on images: give --data=SPEC"),
        (("--out=a.stablehlo", "--format=stablehlo", "--int8"), "makes ONNX files"),
        (("--out=a.onnx", "--calibration=4"), "--calibration is for --int8"),
        (("--out=a.onnx", "--check=0"), "--check=0: expected a whole number"),
        (("--out=a.onnx", "--data=digits"), "has 10 classes"),
        (("--out=a.onnx", "--chek=1"), "unknown argument"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(command, folder, args, words):
    (folder / "folder.onnx").mkdir(exist_ok=True)
    before = runs.snapshot(folder)
    status, _, err = command(*args)
    assert status == 1
    assert words in err
    assert err.count("\n") == 1
    assert runs.snapshot(folder) == before


def test_a_missing_package_is_named(command, monkeypatch):
    find = exporting.importlib.util.find_spec
    hidden = lambda name: None if name == "onnxruntime" else find(name)  # noqa: E731
    monkeypatch.setattr(exporting.importlib.util, "find_spec", hidden)
    status, _, err = command("--out=a.onnx")
    assert status == 1
    assert "onnxruntime is not installed: pip install 'vit_jax_tricks[export]'" in err


@pytest.mark.parametrize("name", ["to_onnx", "tensorrt_problems"])
def test_a_missing_package_is_named_in_python(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "onnx", None)
    module = package._MODULES[name]
    monkeypatch.delitem(sys.modules, f"vit_jax_tricks.export.{module}", raising=False)
    with pytest.raises(UserError, match=r"onnx is not installed: pip install '.*expor"):
        getattr(package, name)


def test_a_failure_leaves_the_old_file(command, folder, monkeypatch):
    (folder / "old.onnx").write_bytes(b"old")
    before = runs.snapshot(folder)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(proof, "latency", fail)
    status, _, err = command("--out=old.onnx", "--check=2")
    assert status == 1
    assert "No space left on device" in err
    assert runs.snapshot(folder) == before


def test_stopped_it_leaves_the_old_file(command, folder, monkeypatch):
    """SIGTERM while the file is compared: neither a half nor an unmeasured one."""
    (folder / "old.onnx").write_bytes(b"old")
    before = runs.snapshot(folder)

    def stopped(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(proof, "outputs", stopped)
    _, out, _ = command("--out=old.onnx", "--check=2", "--json")
    assert "max_difference" not in out
    assert runs.snapshot(folder) == before


SHIFTED = ([0.0, 3.0, 1.0], [2.0, 0.0, 0.5], [1.0, 0.0, 4.0], [5.0, 1.0, 1.0])


def test_a_known_difference_is_reported():
    """By hand: one logit moved by 2.5, so that one of four images changes its class."""
    reference = np.array(SHIFTED, np.float32)
    file = reference.copy()
    file[1, 1] += 2.5
    found = proof.compare(file, reference, np.array([1, 0, 0, 0]))
    assert found == {
        "max_difference": 2.5,
        "top1_agreement": 0.75,
        "accuracy": 0.5,
        "accuracy_reference": 0.75,
    }


@pytest.fixture
def shifted(command, monkeypatch):
    """Runs the command with a file whose logits are moved."""
    honest = proof.onnx_function

    def run(value, *args):
        def dishonest(source):
            function = honest(source)
            return lambda images: function(images) + np.float32(value)

        monkeypatch.setattr(proof, "onnx_function", dishonest)
        return command(*args)

    return run


def test_a_file_that_differs_is_found(shifted):
    """The command compares the file with JAX: neither one with itself."""
    status, out, _ = shifted(0.25, "--out=e.onnx", "--check=5", "--json")
    assert status == 0
    found = json.loads(out)["jax"]["max_difference"]
    assert found == pytest.approx(0.25, abs=1e-5)


def test_a_file_of_nan_is_not_kept(shifted, folder):
    before = runs.snapshot(folder)
    result = shifted(np.nan, "--out=f.onnx", "--check=5")
    runs.refused(
        (result[0], "", result[2].splitlines(True)[-1]), "not finite on 5 of 5"
    )
    assert runs.snapshot(folder) == before


def test_int8_that_loses_says_so():
    result = {
        "latency_ms": {"onnx": {1: 2.0, 8: 3.0}, "float": {1: 1.0, 8: 4.0}},
        "float": {"accuracy": 0.9, "accuracy_reference": 0.95},
    }
    slow, wrong = verdict.losses(result)
    assert slow == "INT8 loses: not faster than float at batch 1."
    assert "INT8 loses 5.0 points of accuracy" in wrong
    result["latency_ms"]["onnx"][1] = 0.5
    result["float"]["accuracy"] = 0.949
    assert verdict.losses(result) == []

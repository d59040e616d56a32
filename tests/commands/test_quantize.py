"""The command `quantize`: a workdir with ranges that every other command takes."""

import json

import PIL.Image
import pytest
import runs

from vit_jax_tricks import evaluate, quantize
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.runs import model_spec


pytestmark = pytest.mark.usefixtures("home")
FEW = ("--calibration=32",)


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    runs.train("--config.optimizer.name=adamw", workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def quantized(run):
    """With 4-bit weights and their sensitivity, into the default folder."""
    four = ("--quant.weights=int4_narrow", "--quant.weight_observer=mse")
    args = (*FEW, *four, "--sensitivity", "--images=32")
    assert quantize.main([f"--workdir={run}", *args]) == 0
    return run.with_name("run_quantized")


@pytest.mark.slow
def test_what_it_leaves(quantized, capsys):
    found = json.loads((quantized / "report" / "quantize.json").read_text())
    assert found["quantised places"] == 8  # weight and input of four layers
    costs = {cost["place"]: cost for cost in found["sensitivity"]}
    assert len(costs) == 9
    alone = [cost["sqnr"] for place, cost in costs.items() if place != "everything"]
    assert costs["everything"]["sqnr"] < min(alone)
    kernels = [c["sqnr"] for p, c in costs.items() if p.endswith("fc1/kernel")]
    inputs = [c["sqnr"] for p, c in costs.items() if p.endswith("fc1/input")]
    assert kernels[0] < inputs[0]  # 4 bits cost more than 8
    text = (quantized / "report" / "summary.md").read_text()
    assert "| everything |" in text
    with PIL.Image.open(quantized / "report" / "sensitivity.png") as plot:
        assert plot.width > 300
    assert model_spec.read(quantized).quant["weights"] == "int4_narrow"
    status, out, err = runs.call(
        capsys, evaluate.main, f"--workdir={quantized}", "--json"
    )
    assert status == 0, err
    measured = json.loads(out)
    for key in ("accuracy", "loss"):
        assert measured[key] == pytest.approx(found["quantised"][key], rel=1e-5)


@pytest.mark.slow
def test_export_takes_its_ranges(quantized, tmp_path, capsys):
    args = [f"--workdir={quantized}", f"--out={tmp_path / 'a.onnx'}", "--json"]
    status, out, err = runs.call(capsys, export.main, *args, "--int8", "--check=256")
    assert status == 0, err
    assert "calibrating" not in err
    assert json.loads(out)["fake_quant"]["top1_agreement"] >= 0.995


@pytest.mark.slow
def test_damage_and_other_models_are_one_line(quantized, run, tmp_path, capsys):
    damaged = runs.copied(quantized, tmp_path)
    files = [p for p in (damaged / "checkpoints").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-7])
    runs.refused(runs.call(capsys, evaluate.main, f"--workdir={damaged}"), "damaged")
    other = runs.copied(quantized, tmp_path / "other")
    spec = json.loads((other / "model.json").read_text())
    spec["quant"]["rules"] = [[".*/fc1/input", None]]
    (other / "model.json").write_text(json.dumps(spec))
    result = runs.call(capsys, evaluate.main, f"--workdir={other}")
    runs.refused(result, "belongs to no place")
    spec["quant"] |= {"rules": [], "learned": True}
    (other / "model.json").write_text(json.dumps(spec))
    result = runs.call(capsys, evaluate.main, f"--workdir={other}")
    runs.refused(result, "there is no stored range")
    result = runs.call(capsys, quantize.main, f"--workdir={quantized}", *FEW)
    runs.refused(result, "is quantised; give the float run")


BAD = {
    "grid": (["--quant.weights=int9"], 'grid "int9" is unknown'),
    "key": (["--quant.weight=int8"], 'Did you mean "weights"?'),
    "nothing": (["--quant.weights=none", "--quant.activations=none"], "nothing would"),
    "images": (["--images=4"], "--images is for --sensitivity"),
    "count": (["--calibration=0"], "--calibration=0: expected a whole number"),
    "place": (["--out="], "--out needs a value"),
    "no model": ([], "give --out=DIR"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(capsys, case):
    """All of it before a model is read."""
    args, message = BAD[case]
    runs.refused(runs.call(capsys, quantize.main, *args), message)


@pytest.mark.slow
def test_a_rule_that_matches_nothing(run, tmp_path, capsys):
    out = tmp_path / "out"
    rule = "--quant.rules=(('nothing', None),)"
    args = (f"--workdir={run}", f"--out={out}", rule)
    runs.refused(runs.call(capsys, quantize.main, *args), "matches no place")
    assert not out.exists()

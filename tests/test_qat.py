"""Training with quantised numbers: the state, the loop and what it leaves."""

import json
import shutil

import jax
import numpy as np
import pytest
import runs

from vit_jax_tricks import config, evaluate, prune, quantize
from vit_jax_tricks.compress.quant import range_store
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.main import main
from vit_jax_tricks.runs.trained import load
from vit_jax_tricks.train import experiment


pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]
SHORT = (
    "--config.steps=8",
    "--config.eval.epochs=0.18",  # every 4 steps
    "--config.checkpoint.steps=3",  # and where it evaluates: 3, 4, 6, 8
    "--config.checkpoint.keep=4",
    "--config.log.steps=2",
    "--config.log.tensorboard=False",
    "--config.quant.calibration=64",
)


@pytest.fixture(scope="module")
def float_run(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "float"
    model = ("--config.model.scan=True", "--config.model.depth=2")
    runs.train(*model, "--config.optimizer.name=adamw", workdir=workdir)
    return workdir


def qat(source, workdir, *args, arg=""):
    """Fine-tunes a run with the recipe of configs/qat_deit_s.py."""
    spec = f"configs/qat_deit_s.py:init={source},lr=1e-3{arg}"
    return main([f"--config={spec}", f"--workdir={workdir}", *SHORT, *args])


@pytest.fixture(scope="module")
def learned(float_run):
    """4-bit weights with learned steps, averages and micro-batches."""
    workdir = float_run.with_name("learned")
    assert qat(float_run, workdir, "--config.accumulate=2", arg=",bits=4") == 0
    return workdir


@pytest.fixture(scope="module")
def static(float_run):
    workdir = float_run.with_name("static")
    assert qat(float_run, workdir) == 0
    return workdir


def test_what_is_stored(static, learned):
    """Static: a step for each layer's inputs. Learned: weights have some too."""
    kept = range_store.stored(load(static, ema=False).variables[""])
    assert all(name.endswith("/input") for name in kept)
    assert {leaf for leaves in kept.values() for leaf in leaves} == {"scale"}
    assert kept["blocks/attn/qkv/input"]["scale"].shape == (2,)
    kept = range_store.stored(load(learned, ema=False).variables[""])
    assert {leaf for leaves in kept.values() for leaf in leaves} == {"log_scale"}
    assert kept["blocks/attn/qkv/kernel"]["log_scale"].shape == (2, 1, 3, 2, 8)


def test_learned_steps_move_and_static_ones_stay(float_run, static, learned):
    for workdir, moves in ((static, False), (learned, True)):
        spec = "configs/qat_deit_s.py:init={},lr=1e-3{}".format(
            float_run, ",bits=4" if moves else ""
        )
        pairs = [a.removeprefix("--config.").split("=", 1) for a in SHORT]
        first = experiment.build(config.load(spec, [tuple(p) for p in pairs]))
        before = range_store.stored(first.compile_init().variables)
        after = range_store.stored(load(workdir, ema=False).variables[""])
        assert before.keys() == after.keys()
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
        assert set(jax.tree.leaves(same)) == {not moves}


@pytest.mark.parametrize("step", [3, 6])
def test_stopped_it_ends_alike(float_run, learned, tmp_path, step):
    """A run that goes on from its checkpoint ends with the same bits."""
    run = runs.copied(learned, tmp_path)
    for later in range(step + 1, 9):
        shutil.rmtree(run / "checkpoints" / str(later), ignore_errors=True)
    assert (run / "checkpoints" / str(step)).is_dir()
    assert qat(float_run, run, "--config.accumulate=2", arg=",bits=4") == 0
    assert runs.leaves(run, 8) == runs.leaves(learned, 8)
    assert runs.metrics(run) == runs.metrics(learned)


@pytest.mark.parametrize(
    ("more", "rtol"),
    [
        pytest.param([], 1e-3, id="data"),
        pytest.param([("mesh.fsdp", "4"), ("dtype", "bfloat16")], 2e-2, id="fsdp"),
    ],
)
def test_one_device_and_eight(float_run, more, rtol):
    """The same ranges to the bit, the same first step up to rounding."""
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        spec = f"configs/qat_deit_s.py:init={float_run},bits=4"
        sizes = [pair for pair in more if len(devices) > 1 or pair[0] == "dtype"]
        x = experiment.build(config.load(spec, sizes), devices=devices)
        state = x.compile_init()
        ranges = jax.device_get(range_store.stored(state.variables))
        with x.train_batches() as batches:
            batch = x.put(next(batches))
        _, metrics = x.compile_train_step()(state, batch, x.place_frozen())
        found.append((ranges, jax.device_get(metrics)))
    (ranges, one), (again, eight) = found
    assert runs.same(ranges, again)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(eight[name], one[name], rtol=rtol)


def test_evaluation_is_that_of_the_quantised_model(static, learned, capsys):
    for workdir in (static, learned):
        capsys.readouterr()
        assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        last = runs.metrics(workdir)[-1]
        for key in ("accuracy", "loss", "accuracy_ema", "loss_ema"):
            assert found[key] == pytest.approx(last[f"test/{key}"], rel=1e-4)


def test_stacked_or_not_it_is_one_model(learned, capsys):
    losses = []
    for scan in ("True", "False"):
        capsys.readouterr()
        args = [f"--workdir={learned}", f"--model.scan={scan}", "--json"]
        assert evaluate.main(args) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_sensitivity_of_stacked_blocks(float_run, tmp_path):
    """Each block is apart, and costs what it costs in the model of single blocks."""
    found = []
    for scan in ("True", "False"):
        out = tmp_path / scan
        args = ("--calibration=32", "--sensitivity", "--images=32")
        args += (f"--out={out}", f"--model.scan={scan}")
        assert quantize.main([f"--workdir={float_run}", *args]) == 0
        listed = json.loads((out / "report" / "quantize.json").read_text())
        found.append({c["place"]: c["sqnr"] for c in listed["sensitivity"]})
    assert "blocks_1/mlp/fc1/kernel" in found[0]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_quantised_run_exports_its_own_ranges(learned, tmp_path, capsys):
    args = [f"--workdir={learned}", f"--out={tmp_path / 'a.onnx'}", "--json"]
    assert export.main([*args, "--int8", "--check=256"]) == 0
    out, err = capsys.readouterr()
    assert "calibrating" not in err
    assert json.loads(out)["fake_quant"]["top1_agreement"] >= 0.995
    assert json.loads(out)["tensorrt_problems"] == []
    for more, message in (
        ([], "is quantised: add --int8"),
        (["--int8", "--calibration=8"], "has its own ranges"),
    ):
        assert export.main([*args, *more]) == 1
        assert message in capsys.readouterr().err


def test_pruned_then_quantised_then_exported(float_run, tmp_path, capsys):
    small, run = tmp_path / "small", tmp_path / "run"
    args = ("--images=64", "--batch_size=32", "--min_hidden=8", "--flops=0.7")
    assert prune.main([f"--workdir={float_run}", f"--out={small}", *args]) == 0
    assert qat(small, run) == 0
    capsys.readouterr()
    args = [f"--workdir={run}", f"--out={tmp_path / 'a.onnx'}", "--json", "--int8"]
    assert export.main([*args, "--check=256"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fake_quant"]["top1_agreement"] >= 0.995
    assert found["megabytes"] < found["megabytes_float"]


def test_eight_bit_floats_train_but_are_no_int8_file(float_run, tmp_path, capsys):
    grids = [
        f"--config.quant.{key}=float8_e4m3fn" for key in ("weights", "activations")
    ]
    run = tmp_path / "run"
    assert qat(float_run, run, *grids) == 0
    capsys.readouterr()
    args = [f"--workdir={run}", f"--out={tmp_path / 'a.onnx'}", "--int8"]
    assert export.main(args) == 1
    err = capsys.readouterr().err
    assert "INT8 files hold integers" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.onnx").exists()


def test_another_quantisation_is_another_run(float_run, static, capsys):
    before = runs.snapshot(static)
    assert qat(float_run, static, "--config.quant.learned=true") == 1
    err = capsys.readouterr().err
    assert "config.quant.learned was False, now True" in err
    assert runs.snapshot(static) == before


def test_a_rule_that_matches_nothing_stops_the_run(float_run, tmp_path, capsys):
    rule = "--config.quant.rules=(('nothing/kernel', None),)"
    assert qat(float_run, tmp_path / "run", rule) == 1
    err = capsys.readouterr().err
    assert 'quantisation rule "nothing/kernel" matches no place' in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()

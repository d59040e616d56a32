"""Folders with odd names work in every command; odd files are refused in one line."""

import itertools
import os
import shutil

import numpy as np
import PIL.Image
import pytest
import runs

from vit_jax_tricks import evaluate, main, predict, prune, quantize, relabel
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.inspect import __main__ as inspect


pytestmark = pytest.mark.usefixtures("home")
NAMES = [
    "a [x] [/b] k=v",
    "c:d,p ü猫 trail.py:x",
    "back\\slash %7B'\"*?",
    "caf\udce9",  # latin-1
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_a_folder_of_any_name(name, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workdir = f"odd/{name}"
    shutil.copytree(run, workdir)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    PIL.Image.fromarray(pixels).save("a.png")
    os.symlink(name, "odd/link")
    once = ["--config.steps=1", "--config.schedule.warmup_epochs=0"]
    config = f"--config={workdir}_pruned/finetune.py"
    file = f"--out={workdir}/m.stablehlo"
    lines = [
        (predict, f"--workdir={workdir}/", "a.png", f"--picture={workdir}/p.png"),
        (evaluate, "--workdir=odd/link"),
        (prune, f"--workdir={workdir}", "--images=64"),
        (main, config, f"--workdir={workdir}/tuned", *once),
        (quantize, f"--workdir={workdir}", "--calibration=32"),
        (export, f"--workdir={workdir}", file, "--format=stablehlo", "--check=16"),
    ]
    for door, *args in lines:
        status, _, err = runs.call(capsys, door.main, *args)
        assert (status, err) == (0, ""), args
    args = [f"--teacher={workdir}", f"--out={workdir}/pack"]
    labelled = runs.call(capsys, relabel.main, *args)
    if "\udce9" in name:
        runs.refused(labelled, "names are valid UTF-8")
    else:
        assert labelled[0] == 0
    status, out, err = runs.command(workdir=workdir)  # finished: nothing is redone
    assert (status, err) == (0, "")
    assert "is finished" in out


MODEL = "--model=vit_tiny_patch16_224"
TAUGHT = (
    "--config.loss.distillation.name=soft",
    "--config.loss.classification.dist_weight=0",
    "--workdir=out",
)
USES = {
    "a run to predict": (predict, "--workdir={}", "a.png"),
    "weights to predict": (predict, MODEL, "--weights={}", "a.png"),
    "a picture": (predict, MODEL, "--weights=none", "{}"),
    "a run to evaluate": (evaluate, "--workdir={}"),
    "weights to evaluate": (evaluate, MODEL, "--weights={}", "--data=digits"),
    "a run to prune": (prune, "--workdir={}"),
    "a run to quantise": (quantize, "--workdir={}"),
    "a run to export": (export, "--workdir={}", "--out=out.onnx"),
    "a place to export to": (export, "--workdir=none", "--out={}/out.onnx"),
    "a teacher": (relabel, "--teacher={}", "--out=out"),
    "label maps": (relabel, "--from={}", "--data=digits", "--out=out"),
    "a config": (main, "--config={}", "--workdir=out"),
    "a folder": (main, "--config.data.name=folder:{}", "--workdir=out"),
    "a pack": (main, "--config.teacher.pack={}", *TAUGHT),
    "a taught run": (main, "--config.teacher.sources={}", *TAUGHT),
    "a float run": (main, "--config=configs/qat_deit_s.py:init={}", "--workdir=out"),
    "a config to look at": (inspect, "augment", "--config={}"),
    "a folder to look at": (inspect, "augment", "--config.data.name=folder:{}"),
}
ENDINGS = ("", ".safetensors", ".npz", ".pth", ".png", ".py", ".json")


@pytest.fixture
def places(tmp_path, monkeypatch) -> list[str]:
    """What is no run, picture, weight file, pack or config, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for ending in ENDINGS:
        (tmp_path / f"noise{ending}").write_bytes(rng.bytes(900))
        (tmp_path / f"empty{ending}").write_bytes(b"")
        (tmp_path / f"deep{ending}").write_text("[" * 100_000)
        (tmp_path / f"folder{ending}").mkdir()
    for name, content in {"bad": b"\xff\xfe[", "nested": b"[" * 100_000}.items():
        (tmp_path / name / "checkpoints" / "1").mkdir(parents=True)
        for file in ("config.json", "model.json", "classes.json", "pack.json"):
            (tmp_path / name / file).write_bytes(content)
    (tmp_path / "loop").symlink_to("loop")
    made = sorted(path.name for path in tmp_path.iterdir())
    return [*made, "none", "noise/below", "loop/below", "a" * 300, "/dev/null"]


@pytest.mark.slow
def test_what_is_not_what_it_should_be_is_one_line(places, tmp_path, capsys):
    """Every command with every wrong place; nothing on disk is lost or changed."""
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.glob("*/*")}
    wrong = []
    for (use, (door, *args)), place in itertools.product(USES.items(), places):
        given = [arg.format(place) for arg in args]
        try:
            status, _, err = runs.call(capsys, door.main, *given)
        except Exception as error:
            status, err = error, ""
        if status != 1 or not err.startswith("error: ") or err.count("\n") != 1:
            wrong.append((use, place, status, err))
    assert not wrong
    assert {path: path.lstat().st_mtime_ns for path in before} == before
    assert not {"out", "out.onnx"} & {path.name for path in tmp_path.iterdir()}

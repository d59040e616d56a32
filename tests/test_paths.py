"""Paths: relative ones work in every command, remote ones are refused."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import runs

from vit_jax_tricks import (
    config,
    create_model,
    data,
    evaluate,
    export_weights,
    load_pretrained,
    main,
    paths,
    predict,
    prune,
    quantize,
    relabel,
)
from vit_jax_tricks.commands import command_line
from vit_jax_tricks.commands.options import declared
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.inspect import __main__ as inspect
from vit_jax_tricks.runs import made_run, model_spec
from vit_jax_tricks.train import loop, metrics


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def project(run, tmp_path, monkeypatch) -> Path:
    """The current folder, with a run in `runs/digits` and a picture `a.png`."""
    shutil.copytree(run, tmp_path / "runs" / "digits")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("where", ["runs/digits", "./runs/../runs/digits/"])
def test_a_run_by_a_relative_path(where, project, capsys):
    given = [f"--workdir={where}"]
    status, out, err = runs.call(capsys, predict.main, *given, "a.png")
    assert (status, err) == (0, "")
    assert "a.png\n" in out
    status, out, err = runs.call(capsys, evaluate.main, *given)
    assert (status, err) == (0, "")
    assert "accuracy" in out
    model = model_spec.read(Path(where)).create()
    found, _ = load_pretrained(model, where, verbose=False)
    expected, _ = load_pretrained(model, project / where, verbose=False)
    assert runs.same(found, expected)


DOORS = {
    "main": main,
    "evaluate": evaluate,
    "predict": predict,
    "relabel": relabel,
    "quantize": quantize,
    "prune": prune,
    "export": export,
    "inspect": inspect,
}
# Flags that --help shows with a path; the value has it after a prefix.
PLACES = r"--([\w.]+)=(DIR|FILE|SOURCE|SPEC|OUT\.png)"
FIRST = {"inspect": ["augment"]}


def usage(name):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert DOORS[name].main([*FIRST.get(name, []), "--help"]) == 0
    return out.getvalue()


FLAGS = sorted(
    {
        (name, flag, "folder:" if place == "SPEC" else "")
        for name in DOORS
        for flag, place in re.findall(PLACES, usage(name))
        if flag != "config"
    }
)


@pytest.fixture
def parsed(monkeypatch):
    """The value of a flag, as the command line of a door is split; nothing runs."""

    class Split(Exception):
        pass

    def run(name, flag, text):
        split, found = command_line.parse, []

        def parse(kind, argv):
            given = split(kind, argv)
            (one,) = (one for one in declared(kind) if one.flag == flag)
            for name in one.names:
                given = getattr(given, name)
            found.append(given)
            raise Split

        with monkeypatch.context() as patch:
            patch.setattr(command_line, "parse", parse)
            try:
                argv = [*FIRST.get(name, []), f"--{flag}={text}"]
                return DOORS[name].main(argv)
            except Split:
                return str(found[0])

    return run


def test_the_flags_are_found():
    doors = {"predict", "evaluate", "quantize", "prune", "export"}
    flags = {(name, flag) for name, flag, _ in FLAGS}
    assert flags >= {(door, "workdir") for door in doors}
    assert flags >= {(door, "weights") for door in doors}
    assert flags >= {("main", "workdir"), ("relabel", "from"), ("inspect", "output")}


@pytest.mark.parametrize(("name", "flag", "kind"), FLAGS)
def test_every_flag_with_a_path_is_absolute(
    name, flag, kind, parsed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for typed, expected in {
        "a b/[c].png": f"{tmp_path}/a b/[c].png",
        "../x=1,y:2/.png": f"{tmp_path}/../x=1,y:2/.png",
        "~/ü.png": "/home/me/ü.png",
        "/there.png": "/there.png",
    }.items():
        assert parsed(name, flag, f"{kind}{typed}") == kind + expected


@pytest.mark.parametrize(("name", "flag", "kind"), FLAGS)
@pytest.mark.parametrize("remote", ["gs://b/x.png", "s3://b", "hdfs://h/x", "a+b://c"])
def test_every_flag_refuses_remote_paths(
    name, flag, kind, remote, parsed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    status = parsed(name, flag, f"{kind}{remote}")
    where = f"--{flag}={kind}{remote}: remote paths are neither read nor written"
    runs.refused((status, *capsys.readouterr()), where)
    assert list(tmp_path.iterdir()) == []


KEYS = {
    "init": ("runs/x", "{}/runs/x"),
    "data.name": ("folder:photos", "folder:{}/photos"),
    "data.data_dir": ("tfds", "{}/tfds"),
    "teacher.pack": ("runs/labels", "{}/runs/labels"),
    "teacher.sources": ("runs/a,deit@w.pth", ("{}/runs/a", "deit@{}/w.pth")),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_with_a_path_is_absolute(key, tmp_path, monkeypatch):
    typed, expected = KEYS[key]
    monkeypatch.chdir(tmp_path)
    found = config.load("configs/digits.py", [(key, typed)])
    for part in key.split("."):
        found = found[part]
    if isinstance(expected, tuple):
        assert found == tuple(part.format(tmp_path) for part in expected)
    else:
        assert found == expected.format(tmp_path)


REMOTE = {
    "init": "s3://b/x.safetensors",
    "data.name": "folder:gs://b/photos",
    "data.data_dir": "gs://b/tfds",
    "teacher.pack": "hdfs://h/x",
    "teacher.sources": "runs/a,gs://b/x",
}


@pytest.mark.parametrize("key", REMOTE)
def test_every_key_refuses_remote_paths(key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = runs.call(capsys, main.main, f"--config.{key}={REMOTE[key]}")
    runs.refused(result, "remote paths are neither read nor written")
    assert f"config.{key}=" in result[2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "how",
    [
        *("load", "export", "pack", "data", "environment"),
        *("train", "save", "spec", "metrics", "collapsed"),
    ],
)
def test_functions_refuse_remote_paths(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://b/tfds")
    model = create_model("vit_tiny_patch16_224", img_size=16, depth=1)
    calls = {
        "load": lambda: load_pretrained(model, Path("gs://b/x.npz")),
        "export": lambda: export_weights({}, "vit_tiny_patch16_224", "s3://b/x.npz"),
        "pack": lambda: LabelPack.open("gs://b/labels"),
        "data": lambda: data.build("folder:gs://b/photos"),
        "environment": lambda: data.build("digits"),
        "train": lambda: loop.run(config.load("configs/digits.py"), "gs://b/run"),
        "save": lambda: made_run.save(Path("GS://b/run"), {}),
        "spec": lambda: model_spec.read("s3://b/run"),
        "metrics": lambda: metrics.read(Path("hdfs://h/run")),
        "collapsed": lambda: made_run.save(Path("dbfs:/run"), {}),
    }
    with pytest.raises(UserError, match="remote paths are neither read nor written"):
        calls[how]()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_path_stays():
    assert paths.weights("hub:timm/x@main") == "hub:timm/x@main"
    assert paths.data("tfds:imagenet2012") == "tfds:imagenet2012"
    assert paths.data("digit_scenes/64") == "digit_scenes/64"
    assert paths.teacher_text("deit@hub:timm/x@main") == "deit@hub:timm/x@main"
    for place in (paths.absolute, paths.teacher_text):
        with pytest.raises(UserError, match="x=hub:a/b@c: expected a path; only weig"):
            place("hub:a/b@c", "x=")
    with pytest.raises(UserError, match="no such home folder"):
        paths.absolute("~nobody-is-called-so/x")
    with pytest.raises(UserError, match="expected a path"):
        paths.absolute("a\0b")


def test_a_teacher_s_folder_may_hold_an_at_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run@home").mkdir()
    assert paths.teacher("run@home") == (None, f"{tmp_path}/run@home")
    assert paths.teacher("vit@run@home") == ("vit", f"{tmp_path}/run@home")

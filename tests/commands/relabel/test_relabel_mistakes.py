"""What `relabel` refuses, and what it says of itself."""

import json

import jax.numpy as jnp
import pytest
import runs
import weight_files
from relabel_checks import succeeded

from vit_jax_tricks import relabel
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.teach import labeller


pytestmark = pytest.mark.usefixtures("home")
VIT = "vit_tiny_patch16_224"
SMALL = [f"--teacher.model.{k}={v}" for k, v in weight_files.SMALL.items()]


MISTAKES = {
    "nothing": ([], "give --out=DIR"),
    "no teacher": (["--out=x", "--data=digits"], "give --teacher=DIR, or --teacher."),
    "no data": (["--out=x", "TEACHER"], "give --data=SPEC"),
    "unknown flag": (["--techer=x"], 'Did you mean "--teacher"?'),
    "unknown key": (["--out=x", "--teacher.wights=x"], '"--teacher.weights"?'),
    "unknown override": (
        ["--out=x", "TEACHER", "--teacher.model.dept=2"],
        'Did you mean "depth"?',
    ),
    "missing run": (["--out=x", "--teacher=none"], "/none does not exist"),
    "run and model": (
        ["--out=x", "--teacher=x", "--teacher.model=y"],
        "leave --teacher.model out",
    ),
    "missing weights": (
        ["--out=x", f"--teacher.model={VIT}", "--teacher.weights=x.npz"],
        "x.npz does not exist",
    ),
    "other classes": (
        ["--out=x", "TEACHER", "--data=digits"],
        "digits has 10 classes, but the model has 3;",
    ),
    "part of the examples": (
        ["--out=x", "TEACHER", "FOLDER", "--data.examples=5"],
        "--data.examples: a label pack covers whole pictures and the whole",
    ),
    "a crop": (
        ["--out=x", "TEACHER", "FOLDER", "--data.train_crop=center"],
        "a label pack covers whole pictures",
    ),
    "no grid": (["--out=x", "TEACHER", "FOLDER", "--grid=x"], "--grid=x: expected"),
    "too fine a grid": (
        ["--out=x", "TEACHER", "FOLDER", "--grid=5x4"],
        "the teacher has 4x4 cells",
    ),
    "no top": (["--out=x", "TEACHER", "FOLDER", "--top=0"], "--top=0: expected"),
    "other picture": (["--out=x", "--picture=x.jpg"], "ends in .png"),
    "maps and a teacher": (
        ["--out=x", "--from=y", "TEACHER", "FOLDER"],
        "--from has its own labels; leave --teacher.model out",
    ),
    "maps and a grid": (
        ["--out=x", "--from=y", "FOLDER", "--grid=4"],
        "leave --grid out",
    ),
}


@pytest.mark.parametrize(("args", "part"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(args, part, teacher, folder, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"TEACHER": teacher, "FOLDER": [f"--data=folder:{folder}"]}
    runs.refused(command(*(a for arg in args for a in parts.get(arg, [arg]))), part)
    assert not (tmp_path / "x").exists()


def test_an_out_folder_of_something_else(teacher, folder, command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path}"]
    runs.refused(command(*args), "holds something else; give a new or an empty folder")
    assert runs.snapshot(tmp_path).keys() == {"notes.txt"}


def test_a_teacher_that_is_not_finite(teacher, folder, command, tmp_path, monkeypatch):
    best = labeller.best
    monkeypatch.setattr(
        labeller,
        "best",
        lambda x, top, shifted: best(x * jnp.nan, top, shifted=False),
    )
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
    runs.refused(command(*args), "the teacher's scores are not finite")


def test_more_classes_than_two_bytes_number():
    with pytest.raises(UserError, match="65537 classes: a label pack holds at most"):
        labeller.kept_scores(65537, 5)


def test_the_header(teacher, folder, command, tmp_path, weights):
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
    succeeded(command(*args))
    header = json.loads((tmp_path / "pack" / "pack.json").read_text())
    spec = header["spec"]
    assert header["version"] == 1
    assert spec["teacher"]["name"] == VIT
    assert spec["teacher"]["weights"] == str(weights)
    assert len(spec["teacher"]["checksum"]) == 64
    assert spec["teacher"]["form"] == "head at each place, an approximation"
    assert spec["preprocessing"]["size"] == [16, 16]
    assert spec["class_names"] == ["a", "b", "c"]
    assert (spec["count"], spec["grid"], spec["top"]) == (18, [4, 4], 3)


def test_help(capsys):
    assert relabel.main(["--help"]) == 0
    out = capsys.readouterr().out
    for flag in (
        "--teacher=DIR",
        "--data=SPEC",
        "--out=DIR",
        "--from=DIR",
        "--picture",
    ):
        assert flag in out


def test_as_a_process(tmp_path):
    args = ["--teacher=none", "--out=x"]
    done = runs.subprocess_command(*args, module="relabel", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    why = f"{tmp_path}/none does not exist; give the workdir of a run."
    assert done.stderr == f"error: {why}\n"

"""Which folders a run takes for its own, and what it remembers of data and version."""

import dataclasses
import json

import pytest

from vit_jax_tricks import __version__
from vit_jax_tricks.config import load
from vit_jax_tricks.data import build
from vit_jax_tricks.data.fingerprint import changes, fingerprint
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import model_spec, resume
from vit_jax_tricks.train import metrics
from vit_jax_tricks.train.clock import Clock


DATA = {"classes": 1, "train": {"count": 2}, "test": {"count": 1}}
FOREIGN = (
    ("config.json", "model.safetensors"),  # a model of another library
    ("metrics.jsonl",),
    ("config.json", "metrics.jsonl", "checkpoints/"),  # checkpoints are elsewhere
    ("model.json",),
    ("report/summary.md",),
    ("photos/1.jpg", "photos/2.jpg"),
    ("checkpoints/model.pt",),
)


@pytest.mark.parametrize("names", FOREIGN)
def test_foreign_folders_are_refused_untouched(names, tmp_path):
    folder = tmp_path / "x"
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("theirs")
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=r"another workdir|empty folder as work"):
        resume.open_workdir(folder, "auto")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".DS_Store", "slurm-1.out", "lost+found/", "a~"])
def test_empty_folders_are_taken(name, tmp_path):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    elif name:
        (tmp_path / name).touch()
    resume.open_workdir(tmp_path, "auto")
    resume.open_workdir(tmp_path / "new" / "er", "auto")
    assert (tmp_path / "new" / "er").is_dir()


def test_a_first_start_that_was_killed_starts_again(tmp_path):
    config = load("configs/digits.py")
    resume.record(tmp_path, config, ["a"], {}, [], DATA)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    resume.open_workdir(tmp_path, "auto")
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    resume.begun_is_over(tmp_path)
    resume.open_workdir(tmp_path, "auto")
    (tmp_path / "checkpoints").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(UserError, match=r"config.json.*but no checkpoints of a run"):
        resume.open_workdir(tmp_path, "auto")


def pictures(tmp_path):
    import runs

    return runs.pictures(tmp_path / "data", count=4)


def seen(root):
    return fingerprint(build(f"folder:{root}", image_size=8, train_crop="whole"))


def test_changed_data_is_refused_unless_confirmed(tmp_path, capsys):
    root, run = pictures(tmp_path), tmp_path / "run"
    before, config = seen(root), load("configs/digits.py")
    assert seen(root) == before
    (run / "checkpoints" / "1").mkdir(parents=True)
    names = ["a", "b", "c"]
    resume.record(run, config, names, {}, [], before)
    resume.check_run(run, config, names, [], before, "auto")
    first = next((root / "a").iterdir())
    (root / "a" / "more.jpg").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"the data has changed .* 'new_data'|new_data"):
        resume.check_run(run, config, names, [], seen(root), "auto")
    resume.check_run(run, config, names, [], seen(root), "new_data")
    assert "the run goes on with it" in capsys.readouterr().out
    (run / "data.json").unlink()
    resume.check_run(run, config, names, [], seen(root), "auto")
    assert "data.json is not there" in capsys.readouterr().out


def test_a_run_may_move_with_its_data_and_teacher(tmp_path, capsys):
    """Paths differ after a move; what lies there is the same, so it is the same run."""
    run = tmp_path / "run"
    (run / "checkpoints" / "1").mkdir(parents=True)

    def place(folder, init="w.npz"):
        return load(
            "configs/digits.py",
            [
                ("data.name", f"folder:{tmp_path}/{folder}/photos"),
                ("teacher.sources", f"{tmp_path}/{folder}/teacher"),
                ("init", f"{tmp_path}/{folder}/{init}"),
            ],
        )

    def taught(folder, checksum="1"):
        return [{"source": f"{tmp_path}/{folder}/teacher", "checksum": checksum}]

    resume.record(run, place("old"), ["a"], {}, taught("old"), DATA)
    resume.check_run(run, place("new"), ["a"], taught("new"), DATA, "auto")
    assert f"config.data.name was 'folder:{tmp_path}/old" in capsys.readouterr().out
    more = DATA | {"train": {"count": 3}}
    with pytest.raises(UserError, match=r"another run: config\.data\.name"):
        resume.check_run(run, place("new"), ["a"], taught("new"), more, "auto")
    with pytest.raises(UserError, match=r"another run: config\.teacher\.sources"):
        resume.check_run(run, place("new"), ["a"], taught("new", "2"), DATA, "auto")
    other = place("new", "other.npz")
    with pytest.raises(UserError, match=r"another run: config\.init"):
        resume.check_run(run, other, ["a"], taught("new"), DATA, "auto")


def test_what_a_fingerprint_tells(tmp_path):
    root = pictures(tmp_path)
    before = seen(root)
    one = sorted((root / "a").iterdir())[0]
    kept = one.read_bytes()
    one.write_bytes(sorted((root / "b").iterdir())[0].read_bytes())
    assert any("content" in line for line in changes(before, seen(root)))
    one.write_bytes(kept)
    assert changes(before, seen(root)) == []
    one.rename(one.with_name("renamed.jpg"))
    assert any("names" in line for line in changes(before, seen(root)))


def test_the_version_is_recorded_and_newer_keys_are_named(tmp_path, capsys):
    config = load("configs/digits.py")
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    resume.record(tmp_path, config, ["a"], {}, [], DATA)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    assert values["version"] == __version__
    values |= {"wings": 2, "version": "9.0"}
    values["ema"]["speed"] = 1
    file.write_text(json.dumps(values))
    resume.check_run(tmp_path, config, ["a"], [], DATA, "auto")
    out = " ".join(capsys.readouterr().out.split())
    assert "config.ema.speed" in out
    assert "config.wings" in out
    assert "version 9.0 wrote config.json" in out


def test_fields_of_a_newer_clock_are_named():
    said = []
    clock = Clock.of({"best": 0.5, "phase": 3}, 7, said.append)
    assert (clock.best, clock.logged) == (0.5, 7)
    assert len(said) == 1
    assert "phase" in said[0]


HUGE = b"1" + b"0" * 400  # beyond a float


@pytest.mark.parametrize(
    "rotten",
    [
        *(b"\0\0\0", b"{", b"[1]", b'{"a": 1}', b"\xff", b"[" * 100_000),
        *(b'{"step": 1, "a": %b}' % HUGE, b'{"step": %b}' % HUGE),
    ],
)
def test_rotten_lines_of_metrics(rotten, tmp_path, capsys):
    good = b'{"step": 1, "test/accuracy": 0.5}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good, rotten, good, b""]))
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 1]
    assert "1 unreadable line(s) left out: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", [["a"], ["a", 1], ["a", None], "ab", {"a": 0, "b": 1}]
)
def test_names_of_classes_that_are_none(names, tmp_path):
    spec = model_spec.named("vit_tiny_patch16_224", num_classes=2)
    spec = dataclasses.replace(spec, class_names=("a", "b"))
    (tmp_path / "model.json").write_text(json.dumps(spec.to_json()))
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert model_spec.read(tmp_path) == spec
    (tmp_path / "classes.json").write_text(json.dumps(names))
    with pytest.raises(
        UserError, match=r"no run with a readable model\.json and classes"
    ):
        model_spec.read(tmp_path)


@pytest.mark.parametrize("place", ["", "view"])
def test_a_model_of_a_newer_version_is_refused(place, tmp_path):
    """Its numbers may depend on what this version does not know."""
    spec = model_spec.named("vit_tiny_patch16_224", num_classes=1).to_json()
    (tmp_path / "classes.json").write_text('["a"]')
    (spec[place] if place else spec)["gamma"] = 2.2
    (tmp_path / "model.json").write_text(json.dumps(spec))
    with pytest.raises(
        UserError, match=r"model\.json holds gamma, unknown to this ver"
    ):
        model_spec.read(tmp_path)


def test_a_line_that_a_full_disk_cuts_short_is_not_there(tmp_path, monkeypatch):
    writer = metrics.MetricsWriter(tmp_path, tensorboard=False, offset=0, step=0)
    writer.write(1, {"a": 0.5})
    file = writer._file

    class Full:
        def write(self, data):
            return file.write(data[:5])

        def __getattr__(self, name):
            return getattr(file, name)

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(OSError, match="No space left"):
        writer.write(2, {"a": 0.25})
    monkeypatch.undo()
    writer.write(3, {"a": 0.125})
    assert writer.offset == (tmp_path / "metrics.jsonl").stat().st_size
    writer.close()
    assert metrics.read(tmp_path) == [{"step": 1, "a": 0.5}, {"step": 3, "a": 0.125}]

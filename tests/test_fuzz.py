"""Damaged, cut, renamed and swapped files: one line, or the result of sound ones.

A failure names its case: `pytest tests/test_fuzz.py -m slow -k 'goes_on and 17'`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import runs
from damage import damage
from outcomes import ranked, refused, small_picture

from vit_jax_tricks import evaluate, predict, prune, quantize, relabel
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.export import proof
from vit_jax_tricks.runs.prediction import predict as predicted
from vit_jax_tricks.runs.trained import load


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


@pytest.fixture
def outcome(record_property):
    """Notes how a case ended, for `--junit-xml`."""
    return lambda name: record_property("outcome", name)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    return small_picture(tmp_path_factory.mktemp("picture"))


# Runs that are read. `model.json`, `classes.json` and `config.json` have no checksum:
# another sound value in one of them is another sound run.


def measured(out: str) -> dict[str, Any]:
    """What `evaluate --json` prints, less the name of the run."""
    line = json.loads(out)
    del line["weights"]
    return line


@pytest.fixture(scope="module")
def by_step(run, tmp_path_factory) -> dict[int, Path]:
    """The run, and the run as it would be without its newest checkpoint."""
    older = runs.copied(run, tmp_path_factory.mktemp("older"))
    shutil.rmtree(older / "checkpoints/12")
    return {12: run, 10: older}


class Door(NamedTuple):
    """A command that reads a run, and what counts of what it prints or makes."""

    main: Callable[..., int]
    args: Sequence[Any]
    found: Callable[[str, Path], Any]  # of the standard output and of --out
    out: str | None = None  # a name for --out


def check_read(door: Door, by_step, cache, case, tmp_path, capsys) -> str:
    """Reads a damaged run; returns how it ended."""

    def call(workdir, folder):
        made = tmp_path / folder / (door.out or "nothing")
        made.parent.mkdir()
        out = [] if door.out is None else [f"--out={made}"]
        args = (f"--workdir={workdir}", *out, *door.args)
        return runs.call(capsys, door.main, *args), made

    def of_sound(step, workdir):
        (status, out, err), made = call(workdir, f"sound_{step}")
        assert status == 0, err
        return door.found(out, made)

    if door.main not in cache:
        cache[door.main] = {step: of_sound(step, by_step[step]) for step in by_step}
    workdir = runs.copied(by_step[12], tmp_path)
    what = damage(workdir, case)
    before = runs.snapshot(workdir)
    result, made = call(workdir, "made")
    _, out, err = result
    assert runs.snapshot(workdir) == before, what
    if refused(result, what, as_json="--json" in door.args):
        assert not any((tmp_path / "made").iterdir()), what
        return "refused"
    assert "nan" not in out.lower(), what
    found = door.found(out, made)
    if found == cache[door.main][12]:
        return "equal"
    if found == cache[door.main][10]:
        gone = not (workdir / "checkpoints/12").is_dir()
        assert gone or "checkpoint 12 is damaged" in out + err, what
        return "the one before"
    assert re.search(r"(model|classes|config)\.json", what), what
    return "another sound value"


@pytest.fixture(scope="module")
def cache() -> dict[Any, Any]:
    """What commands print of sound runs."""
    return {}


@pytest.mark.parametrize("seed", range(45))
def test_a_run_that_predicts(seed, by_step, cache, picture, tmp_path, capsys, outcome):
    door = Door(predict.main, [picture], lambda out, made: ranked(out))
    outcome(check_read(door, by_step, cache, f"predict {seed}", tmp_path, capsys))


@pytest.mark.parametrize("seed", range(15))
def test_a_run_that_is_evaluated(seed, by_step, cache, tmp_path, capsys, outcome):
    door = Door(evaluate.main, ["--json"], lambda out, made: measured(out))
    outcome(check_read(door, by_step, cache, f"evaluate {seed}", tmp_path, capsys))


def weights_of(out: str, made: Path) -> dict[str, list]:
    """Checksums of what `quantize` and `prune` made."""
    return runs.leaves(made, 0)


def content_of(out: str, made: Path) -> bytes:
    return made.read_bytes()


MAKERS = {
    "quantize": Door(quantize.main, ["--calibration=16"], weights_of, "made"),
    "prune": Door(prune.main, ["--images=16", "--batch_size=16"], weights_of, "made"),
    "export": Door(export.main, ["--check=8"], content_of, "made.onnx"),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_another_is_made_from(
    name, seed, by_step, cache, tmp_path, capsys, outcome, monkeypatch
):
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    monkeypatch.setattr(proof, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(proof, "BATCHES", (1,))
    case = f"{name} {seed}"
    outcome(check_read(MAKERS[name], by_step, cache, case, tmp_path, capsys))


# Runs that go on, taught by a pack of labels.

TAUGHT = (
    "--config.loss.distillation.name=soft",
    "--config.loss.classification.dist_weight=0",
)
# What a start writes anew; `metrics.jsonl` is cut back to the checkpoint.
WRITTEN = ("config", "classes", "model", "teachers", "data")


@pytest.fixture(scope="module")
def pack(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packs") / "pack"
    files = "--examples_per_file=500"
    assert relabel.main([f"--teacher={run}", f"--out={path}", files]) == 0
    return path


@pytest.fixture(scope="module")
def taught(pack, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("taught") / "run"
    runs.train(*TAUGHT, f"--config.teacher.pack={pack}", workdir=workdir)
    return workdir


def contents(folder: Path) -> set[str]:
    """Hashes of all files."""
    return set(runs.snapshot(folder).values()) - {"folder"}


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("seed", range(45))
def test_a_run_that_goes_on(seed, taught, pack, tmp_path, outcome):
    workdir = runs.copied(taught, tmp_path)
    what = damage(workdir, f"main {seed}")
    before, kept = runs.snapshot(workdir), contents(workdir)
    sound = (taught / "metrics.jsonl").read_bytes()
    path = workdir / "metrics.jsonl"
    damaged = path.read_bytes() if path.is_file() else b""
    args = (*TAUGHT, f"--config.teacher.pack={pack}")
    result = runs.command(*args, workdir=workdir)
    if refused(result, what):
        if what.startswith("swap") and (workdir / "damaged").is_dir():
            assert kept == contents(workdir), what  # two damages: one was set aside
        else:
            assert runs.snapshot(workdir) == before, what
        return outcome("refused")
    later = "checkpoints/12/later.json"  # measured again if it is damaged
    lost = "later.json of checkpoint 12 is damaged" in result[1]
    rewritable = {
        before[name]
        for name in before
        if name in {f"{stem}.json" for stem in WRITTEN}
        or name == "metrics.jsonl"
        or name.startswith("report/")
        or (name == later and lost)
    }
    assert kept - rewritable <= contents(workdir), what
    assert runs.leaves(workdir, 12) == runs.leaves(taught, 12), what
    metrics = (workdir / "metrics.jsonl").read_bytes()
    if damaged.startswith(sound):
        assert runs.metrics(workdir) == runs.metrics(taught), what
    elif not (workdir / "damaged").is_dir():  # else cut further back, and gone on
        assert metrics == damaged[: len(sound)], what
    for stem in WRITTEN:
        name = f"{stem}.json"
        assert (workdir / name).read_bytes() == (taught / name).read_bytes(), what
    return outcome("equal" if "is finished" in result[1] else "went on to the same")


# Packs of labels.


@pytest.mark.parametrize("seed", range(30))
def test_a_pack(seed, taught, pack, run, tmp_path, capsys, outcome):
    """Damaged where it is: a run is taught by the pack of one place."""
    sound = runs.copied(pack, tmp_path)
    before = contents(pack)
    try:
        what = damage(pack, f"pack {seed}")
        damaged = runs.snapshot(pack)
        if seed % 3:
            workdir = runs.copied(taught, tmp_path / "run")
            args = (*TAUGHT, f"--config.teacher.pack={pack}")
            result = runs.command(*args, workdir=workdir)
            assert runs.snapshot(workdir) == runs.snapshot(taught), what
            assert "is finished" in result[1] or result[0], what
        else:
            files = "--examples_per_file=500"
            args = (f"--teacher={run}", f"--out={pack}", files)
            result = runs.call(capsys, relabel.main, *args)
        assert damaged.items() <= runs.snapshot(pack).items(), what
        if not refused(result, what):
            assert before <= contents(pack), what
            return outcome("equal")
        return outcome("refused")
    finally:
        for path in (pack, *pack.parent.glob("moved_*")):
            remove(path)
        shutil.move(sound, pack)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


# Folders of pictures.

PICTURES = (
    "--config.data.image_size=16",
    "--config.data.train_crop=whole",
    "--config.batch_size=16",
    "--config.steps=2",
    "--config.checkpoint.steps=none",
    "--config.model.patch_size=8",
)
ENDINGS = (".jpg", ".png", ".webp", ".bmp", ".gif", ".JPEG")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two splits of three classes, in several formats."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in "abc":
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                path = root / part / name / f"{i}{ENDINGS[i]}"
                PIL.Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def seen(home, pictures, tmp_path_factory) -> Path:
    """A run on the pictures."""
    workdir = tmp_path_factory.mktemp("seen") / "run"
    runs.train(*PICTURES, f"--config.data.name=folder:{pictures}", workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def losses(seen, tmp_path_factory):
    """The loss of a picture, as Pillow reads it, by label; None if it does not."""
    trained = load(seen)
    png = tmp_path_factory.mktemp("pillow") / "a.png"
    known: dict[str, np.ndarray | None] = {}

    def loss(path: Path, label: int) -> float | None:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in known:
            try:
                with PIL.Image.open(path) as image:
                    image.convert("RGB").save(png)
            except (OSError, ValueError, SyntaxError):
                return known.setdefault(digest, None)
            (one,) = predicted(trained, [png])
            known[digest] = one.probabilities
        found = known[digest]
        return None if found is None else -float(np.log(found[label]))

    return loss


def listed(root: Path) -> list[tuple[Path, int]]:
    """The pictures of both splits with their labels, each file once."""
    found = {}
    # "0train" and "train.part" are still read as train.
    parts = [
        p for p in sorted(root.iterdir()) if re.search(r"\b\d?(train|val)\b", p.name)
    ]
    for part in parts:
        for label, name in enumerate("abc"):
            for path in sorted((part / name).rglob("*"), key=Path.is_symlink):
                if path.is_file() and path.name.lower().endswith(ENDINGS_READ):
                    found.setdefault(path.resolve(), (path, label))
    return list(found.values())


ENDINGS_READ = tuple({ending.lower() for ending in ENDINGS})


@pytest.mark.parametrize("seed", range(45))
def test_pictures(seed, pictures, seen, losses, tmp_path, capsys, outcome):
    """Damaged where they are: evaluated with and without broken ones, or gone on."""
    sound = runs.copied(pictures, tmp_path)
    workdir = runs.copied(seen, tmp_path / "run")
    before = {path.read_bytes() for path, _ in listed(pictures)}
    try:
        what = damage(pictures, f"pictures {seed}")
        damaged = runs.snapshot(pictures)
        if seed % 3 == 0:
            data = f"--config.data.name=folder:{pictures}"
            result = runs.command(*PICTURES, data, workdir=workdir)
            assert runs.snapshot(workdir) == runs.snapshot(seen), what
            if not refused(result, what):
                assert "is finished" in result[1], what
                assert {p.read_bytes() for p, _ in listed(pictures)} == before, what
        else:
            skip = [] if seed % 3 == 1 else ["--data.skip_broken=true"]
            args = [f"--workdir={workdir}", "--split=all", "--json", *skip]
            result = runs.call(capsys, evaluate.main, *args)
            assert runs.snapshot(workdir) == runs.snapshot(seen), what
            if not refused(result, what, as_json=True):
                each = [losses(path, label) for path, label in listed(pictures)]
                read = [loss for loss in each if loss is not None]
                assert skip or len(read) == len(each), what
                line = json.loads(result[1])
                assert line["count"] == len(read), what
                np.testing.assert_allclose(
                    line["loss_ema"], np.mean(read), rtol=1e-5, err_msg=what
                )
        assert runs.snapshot(pictures) == damaged, what
        return outcome("refused" if result[0] else "equal")
    finally:
        for path in (pictures, *pictures.parent.glob("moved_*")):
            remove(path)
        shutil.move(sound, pictures)

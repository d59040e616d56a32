"""What a user can get wrong: one clear line, a non-zero exit, and nothing lost."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import runs
from quick import sparse


FOLDER = (
    "--config.data.image_size=8",
    "--config.data.train_crop=whole",
    "--config.batch_size=16",
    "--config.steps=2",
    "--config.checkpoint.steps=none",
)


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run(run, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return runs.pictures(tmp_path / "pictures")


def refused(part: str, *args: str, workdir: Path, keep: Path) -> None:
    """Runs, and expects one line with `part` in it and `keep` left as it was."""
    before = runs.snapshot(keep)
    status, _, err = runs.command(*args, workdir=workdir)
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err
    assert runs.snapshot(keep) == before


# Arguments that are wrong whatever the data and the workdir.
ARGUMENTS = {
    "unknown key": ("--config.bach_size=3", 'Did you mean "batch_size"?'),
    "unknown nested key": (
        "--config.optimizer.wight_decay=3",
        'Did you mean "weight_decay"?',
    ),
    "unknown section": ("--config.optimiser.name=sgd", 'Did you mean "optimizer"?'),
    "a section as a value": ("--config.optimizer=adamw", "is a section"),
    "a value as a section": ("--config.seed.x=1", "config.seed"),
    "unknown config argument": (
        "--config=configs/digits.py:epoch=3",
        'Did you mean "epochs"?',
    ),
    "text for a number": ("--config.seed=x", "expected int"),
    "fraction for a whole number": ("--config.batch_size=12.5", "expected int"),
    "number for a switch": ("--config.augment.flip=1", "expected bool"),
    "number for a pair": ("--config.augment.scale=3", "expected tuple"),
    "words for a pair": ("--config.augment.scale=('a', 'b')", "expected tuple"),
    "none for a number": ("--config.schedule.lr=none", "expected float"),
    "none for a name": ("--config.model.name=none", 'Unknown model "none"'),
    "infinity": ("--config.schedule.lr=1e999", "expected float"),
    "three for a pair": ("--config.augment.scale=(1,2,3)", "config.augment.scale"),
    "no such config file": (
        "--config=configs/digit.py",
        'Did you mean "configs/digits.py"?',
    ),
    "unknown flag": ("--wrkdir=x", "--wrkdir: unknown argument"),
    "a stray word": ("digits", "digits: unknown argument"),
    "a flag without value": ("--config.seed", "--config.seed needs a value"),
    "no config": ("--config=", "--config needs a value"),
    "no workdir": ("--workdir=", "--workdir needs a value"),
    "unknown data": ("--config.data.name=digit", 'Did you mean "digits"?'),
    "data not prepared": ("--config.data.name=tfds:cifar10", "not prepared"),
    "unknown tfds name": ("--config.data.name=tfds:cifar01", "not prepared"),
    "unknown split": ("--config.data.test_split=val", "is not a split"),
    "missing folder": ("--config.data.name=folder:/no/where", "does not exist"),
    "idle key": ("--config.data.skip_broken=True", "has no effect"),
    "batch larger than the data": ("--config.batch_size=1600", "larger than"),
    "batch 0": ("--config.batch_size=0", "config.batch_size=0"),
    "negative batch": ("--config.batch_size=-8", "config.batch_size=-8"),
    "batch not divisible by devices": ("--config.batch_size=12", "use 8 or 16"),
    "batch not divisible by micro-batches": ("--config.accumulate=3", "use 24 or 48"),
    "no micro-batches": ("--config.accumulate=0", "config.accumulate=0"),
    "mesh that does not fit": ("--config.mesh.fsdp=3", "does not fit 8 device"),
    "mesh of nothing": ("--config.mesh.tensor=0", "does not fit 8 device"),
    "seed out of range": ("--config.seed=-1", "seed=-1"),
    "unknown type": ("--config.dtype=float8", 'config.dtype="float8"'),
    "unknown model": ("--config.model.name=vit_tiny_patch61_224", "Did you mean"),
    "unknown model key": ("--config.model.dept=2", 'Did you mean "depth"?'),
    "model key of a wrong type": (
        "--config.model.depth=two",
        "depth=two: expected int",
    ),
    "model key that the data decides": ("--config.model.num_classes=4", "leave it out"),
    "heads do not divide the width": ("--config.model.num_heads=3", "num_heads=3"),
    "patches do not fit": ("--config.model.patch_size=3", "patch_size=3"),
    "model for another image": ("--config.model.img_size=16", "img_size"),
    "no hidden units": ("--config.model.mlp_ratio=-1.0", "mlp_ratio=-1.0"),
    "negative decay": ("--config.optimizer.weight_decay=-1.0", "weight_decay"),
    "beta of one": ("--config.optimizer.b1=1.0", "b1=1.0"),
    "rate of one": ("--config.model.drop_path_rate=1.5", "drop_path_rate=1.5"),
    "unknown optimizer": ("--config.optimizer.name=adamv", "Did you mean"),
    "no such hyper-parameter": (
        "--config.optimizer.trust_clip=True",
        "takes no trust_clip",
    ),
    "negative clip": ("--config.optimizer.grad_clip=-1", "grad_clip=-1"),
    "unknown clip": ("--config.optimizer.clip_mode=value", 'clip_mode "value"'),
    "rule without a match": (
        "--config.optimizer.rules=(('nothing', {'freeze': True}),)",
        "matches no parameter",
    ),
    "rule of a wrong shape": ("--config.optimizer.rules=(3,)", "rule"),
    "unknown schedule": ("--config.schedule.name=cosine", "Did you mean"),
    "warm-up longer than the run": ("--config.schedule.warmup_epochs=9.0", "warmup"),
    "cool-down longer than the run": (
        "--config.schedule.cooldown_epochs=9.0",
        "cool-down",
    ),
    "negative cool-down": (
        "--config.schedule.cooldown_epochs=-1.0",
        "config.schedule.cooldown_epochs=-1.0",
    ),
    "learning rate for nothing": ("--config.schedule.lr_per=0", "schedule.lr_per=0"),
    "negative learning rate": ("--config.schedule.lr=-1", "config.schedule.lr=-1"),
    "smoothing out of range": (
        "--config.loss.classification.smoothing=1.0",
        "config.loss.classification.smoothing=1.0",
    ),
    "unknown loss": ("--config.loss.classification.name=softmx", '"softmax"'),
    "negative mixup": ("--config.augment.mixup=-1.0", "mixup"),
    "average beyond one": ("--config.ema.decay=1.5", "decay"),
    "no steps": ("--config.steps=0", "config.steps=0"),
    "no evaluation batch": ("--config.eval.batch_size=0", "config.eval.batch_size=0"),
    "no evaluation": ("--config.eval.epochs=0", "config.eval.epochs=0"),
    "no logging": ("--config.log.steps=0", "config.log.steps=0"),
    "no saving": ("--config.checkpoint.steps=0", "config.checkpoint.steps=0"),
    "one checkpoint": ("--config.checkpoint.keep=1", "config.checkpoint.keep=1"),
    "unknown resume": ("--config.resume=maybe", 'config.resume="maybe"'),
    "nothing to resume": ("--config.resume=required", "config.resume=required"),
}


@pytest.mark.parametrize(("arg", "part"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(arg, part, tmp_path):
    refused(part, arg, workdir=tmp_path / "run", keep=tmp_path)


HEAD = "from configs import digits\ndef get_config(arg=''):\n    "
FILES = {
    "syntax error": ("def get_config(arg=''):\n  return (", "line 2"),
    "no get_config": ("x = 1", "defines no get_config"),
    "unknown field": (
        f"{HEAD}c = digits.get_config()\n    c.epohcs = 3\n    return c",
        "epochs",
    ),
    "unread key": (
        f"{HEAD}c = digits.get_config()\n    c.unlock()\n    c.extra = 3\n    return c",
        "nothing in this run reads config.extra",
    ),
    "its own mistake": (f"{HEAD}return 1 / 0", "line 3: ZeroDivisionError"),
    "no config returned": (f"{HEAD}return None", "get_config"),
}


@pytest.mark.parametrize(("source", "part"), FILES.values(), ids=FILES)
def test_config_files(source, part, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(source)
    # The overrides of a tiny run would be refused first by a config without fields.
    args = [f"--config={path}", f"--workdir={tmp_path / 'run'}"]
    refused(part, *args, workdir=tmp_path / "run", keep=tmp_path)


def text_named_jpg(folder: Path) -> None:
    (folder / "a" / "00.jpg").write_text("no picture")


def truncated_jpg(folder: Path) -> None:
    path = folder / "a" / "00.jpg"
    path.write_bytes(path.read_bytes()[:200])


def empty_png(folder: Path) -> None:
    (folder / "a" / "zero.png").write_bytes(b"")


def garbled_png(folder: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    (folder / "a" / "bad.png").write_bytes(buffer.getvalue()[:40] + b"\0" * 40)


BROKEN = [truncated_jpg, text_named_jpg, empty_png, garbled_png]


@pytest.mark.parametrize("damage", sparse(BROKEN, every=4))
def test_broken_pictures(damage, folder, tmp_path):
    damage(folder)
    data = (*FOLDER, f"--config.data.name=folder:{folder}")
    refused("skip_broken", *data, workdir=tmp_path / "run", keep=tmp_path)
    before = runs.snapshot(folder)
    skip = "--config.data.skip_broken=true"
    status, out, err = runs.command(*data, skip, workdir=tmp_path / "run")
    assert status == 0
    assert "3 classes" in out
    assert err.startswith("Left out: 1 of ")
    assert err.count("\n") == 1
    assert runs.snapshot(folder) == before


def empty_class(folder: Path) -> Path:
    (folder / "d").mkdir()
    return folder


def class_of_one(folder: Path) -> Path:
    (folder / "d").mkdir()
    shutil.copy(folder / "a" / "00.jpg", folder / "d")
    return folder


def one_class(folder: Path) -> Path:
    shutil.rmtree(folder / "a")
    shutil.rmtree(folder / "b")
    return folder


def a_file(folder: Path) -> Path:
    return folder / "a" / "00.jpg"


def no_test_part(folder: Path) -> Path:
    runs.pictures(folder / "train", count=2)
    return folder


def odd_test_part(folder: Path) -> Path:
    runs.pictures(folder / "train", count=2)
    runs.pictures(folder / "val", ("a", "b"), count=2)
    return folder


FOLDERS = {
    empty_class: 'class "d" has 0',
    class_of_one: 'class "d" has 1',
    one_class: "at least two classes",
    a_file: "is a file",
    no_test_part: "none in test/ or val/",
    odd_test_part: 'class "c"',
}


@pytest.mark.parametrize(("change", "part"), FOLDERS.items())
def test_folders(change, part, folder, tmp_path):
    data = f"--config.data.name=folder:{change(folder)}"
    refused(part, *FOLDER, data, workdir=tmp_path / "run", keep=tmp_path)


def grey16(path: Path) -> None:
    PIL.Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(path / "x.png")


def cmyk(path: Path) -> None:
    PIL.Image.new("CMYK", (9, 9), (10, 200, 30, 0)).save(path / "x.jpg")


def grey(path: Path) -> None:
    PIL.Image.new("L", (9, 9), 100).save(path / "x.jpg")


def palette(path: Path) -> None:
    PIL.Image.new("P", (9, 9), 3).save(path / "x.png")


def alpha(path: Path) -> None:
    PIL.Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(path / "x.webp", lossless=True)


def test_unusual_pictures_work(folder, tmp_path):
    """Three classes too: fewer than the five of top-5."""
    for number, save in enumerate([grey16, cmyk, grey, palette, alpha]):
        place = folder / "abc"[number % 3] / save.__name__
        place.mkdir()
        save(place)
    before = runs.snapshot(folder)
    data = (*FOLDER, f"--config.data.name=folder:{folder}")
    out = runs.train(*data, workdir=tmp_path / "run")
    assert "3 classes" in out
    assert [line["step"] for line in runs.metrics(tmp_path / "run")] == [1, 2, 2]
    assert runs.snapshot(folder) == before


def damage_all(run: Path) -> None:
    for step in (run / "checkpoints").iterdir():
        (step / "state" / "_METADATA").write_text("{}")


def cut_metrics(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


WORKDIRS = {
    "of another model": (None, ["--config.model.depth=2"], "config.model.depth was 1"),
    "of another seed": (None, ["--config.seed=1"], "config.seed was 0"),
    "of other data": (None, ["--config.data.examples=64"], "config.data.examples was"),
    "of another batch": (None, ["--config.batch_size=64"], "config.batch_size was 32"),
    "of another optimizer": (
        None,
        ["--config.optimizer.name=lion"],
        "config.optimizer.name was",
    ),
    "of other rules": (
        None,
        ["--config.optimizer.rules=(('head/bias', {'freeze': True}),)"],
        "another model or optimizer",
    ),
    "of a longer run": (None, ["--config.steps=6"], "beyond this config's 6"),
    "not to be resumed": (None, ["--config.resume=never"], "config.resume=never"),
    "with all checkpoints damaged": (damage_all, [], "every checkpoint in"),
    "without metrics": (
        lambda run: (run / "metrics.jsonl").unlink(),
        [],
        "metrics.jsonl has 0 bytes",
    ),
    "with metrics cut short": (cut_metrics, [], "put it back"),
    "without config": (
        lambda run: (run / "config.json").unlink(),
        [],
        "config.json is missing",
    ),
    "with a broken config": (
        lambda run: (run / "config.json").write_text("{"),
        [],
        "config.json is missing or unreadable",
    ),
    "with an odd config": (
        lambda run: (run / "config.json").write_text("[]"),
        [],
        "config.json is missing or unreadable",
    ),
    "with other classes": (
        lambda run: (run / "classes.json").write_text(json.dumps(["cat", "dog"])),
        [],
        "other classes",
    ),
}


@pytest.mark.parametrize(("change", "args", "part"), WORKDIRS.values(), ids=WORKDIRS)
def test_workdirs(change, args, part, run):
    if change:
        change(run)
    refused(part, *args, workdir=run, keep=run)


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/below"])
def test_unwritable_workdirs(where, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("cannot be written", workdir=tmp_path / where, keep=tmp_path)


@pytest.mark.slow
def test_a_diverging_run_names_the_offender(tmp_path):
    status, out, err = runs.command("--config.schedule.lr=1e30", workdir=tmp_path)
    assert status == 1
    assert out.count("the step is skipped") == 2
    assert err.count("\n") == 1
    assert "3 steps in a row were not finite" in err
    assert "first offender: module" in err


PROCESSES = {
    "unknown key": ARGUMENTS["unknown key"],
    "missing folder": ARGUMENTS["missing folder"],
    "unwritable": ("--workdir=/proc/below", "cannot be written"),
}


@pytest.mark.parametrize(("arg", "part"), PROCESSES.values(), ids=PROCESSES)
def test_as_a_process(arg, part, tmp_path):
    done = runs.subprocess_command(arg, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr
    assert list(tmp_path.iterdir()) == []

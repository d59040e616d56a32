"""What the README and the documents show, run as it is typed."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import shell_blocks
import weight_files

from vit_jax_tricks import create_model, export_weights
from vit_jax_tricks.data import digit_scenes
from vit_jax_tricks.export import proof


DOCUMENTS = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
DOCUMENTS += [Path("CONTRIBUTING.md"), Path("CHANGELOG.md")]
WITH_CODE = [path for path in DOCUMENTS if shell_blocks.blocks(path, "python")]
COMMAND = "python -m vit_jax_tricks."
# Commands that do not run here, by how they begin, and why.
NOT_RUN = {
    "python3 -m venv .venv": "makes an environment",
    ".venv/bin/pip install": "installs from a registry",
    "pip install": "installs from a registry",
    ".venv/bin/python -m pytest": "these tests",
    f"{COMMAND}evaluate --model=deit_small_patch16_224 --weights=hub:": (
        "downloads weights, and needs ImageNet"
    ),
    f"{COMMAND}relabel --teacher.model=swin_tiny_patch4_window7_224": "needs ImageNet",
    f"{COMMAND}main --config=configs/families.py:family=NAME": "NAME stands for many",
    "python benchmarks/": "measures for minutes to hours",
}
# These run in processes of their own, from the copy's root, with nothing added.
PROCESSES = (
    f"{COMMAND}predict --workdir=runs/digits",
    f"{COMMAND}evaluate --workdir=runs/digits",
)
# What is added to a training, so that it takes seconds.
SHORT = ["steps=2", "schedule.warmup_epochs=0.0", "schedule.cooldown_epochs=0.0"]
NARROW = ["model.depth=1", "model.embed_dim=48", "model.num_heads=2"]
SMALL_BATCH = ["batch_size=8", "eval.batch_size=8"]
# A policy takes longest to compile; photographs stand for ImageNet.
PHOTOS = [
    "augment.auto_augment=none",
    "data.name=folder:photos",
    "data.test_split=test",
]
TINY = {
    "digits.py": [*SHORT, *NARROW],
    "digit_scenes.py": [*SHORT, *NARROW, *SMALL_BATCH],
    "deit_s.py": [*SHORT, *NARROW, *SMALL_BATCH, *PHOTOS],
    "deit_s_distilled.py": [*SHORT, *NARROW, *SMALL_BATCH, *PHOTOS],
    "lvvit_s.py": [*SHORT, "model.depth=1", *SMALL_BATCH, *PHOTOS],
    "qat_deit_s.py": SHORT,
    "finetune.py": SHORT,
}


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("path", WITH_CODE, ids=str)
def test_code_prints_what_it_says(path, capsys):
    """The comment after each print is its output, but for words after a comma.

    The blocks of a document run in order and share their names.
    """
    names = {}
    for code in shell_blocks.blocks(path, "python"):
        exec(compile(code, str(path), "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        said = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert len(said) == len(printed) > 0
        for comment, line in zip(said, printed, strict=True):
            assert comment == line or comment.startswith(f"{line}, ")


def test_two_set_up_commands():
    commands = re.findall(r"python3 -m venv .*", Path("README.md").read_text())
    assert len(commands) == 2
    assert "vit_jax_tricks.main" in commands[0]
    assert commands[1].endswith("-m pytest")


def test_no_block_is_overlooked():
    """Neither fences of other languages nor blocks that are indented instead."""
    for document in DOCUMENTS:
        text = document.read_text()
        fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
        assert set(fences[::2]) <= {"python", "sh"}, document
        assert set(fences[1::2]) <= {""}, document
        outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^(    |\t)\S", outside, re.MULTILINE), document


def test_every_file_that_is_named_is_there():
    named = re.compile(r"(?:benchmarks|notebooks)/\w+\.\w+")
    for document in DOCUMENTS:
        for name in named.findall(document.read_text()):
            assert Path(name).is_file(), f"{document} names {name}"


def test_what_does_not_run_is_there():
    typed = [line.text for document in DOCUMENTS for line in every(document)]
    for start in (*NOT_RUN, *PROCESSES):
        assert any(text.startswith(start) for text in typed), start
    left = [text for text in typed if not text.startswith(tuple(NOT_RUN))]
    assert all(COMMAND.removeprefix("python ") in text for text in left)
    assert len(left) > 20


def every(document: Path) -> list[shell_blocks.Line]:
    return shell_blocks.lines(document)


@pytest.fixture
def project(home, tmp_path, monkeypatch) -> Path:
    """A copy of the project with what the documents' commands read, as current folder.

    The digits and everything else come from the commands themselves.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith("tests/") and Path(name).is_file():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(name).read_bytes())
    monkeypatch.chdir(tmp_path)
    for config in digit_scenes.CONFIGS:
        monkeypatch.setattr(config, "train", 80)
        monkeypatch.setattr(config, "test", 40)
    monkeypatch.setattr(proof, "SECONDS", 0.0)  # of each latency
    monkeypatch.setattr(proof, "LEAST_ROUNDS", 1)
    for label, name in enumerate(("chough", "Ünï cörn with a long name", "猫")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(10):
            picture = weight_files.smooth_image(60 + 4 * i, 80 - 9 * label)
            PIL.Image.fromarray(picture).save(folder / f"{i}.jpg")
    for name in ("a.png", "a.jpg", "b.jpg"):
        PIL.Image.fromarray(weight_files.smooth_image(40, 50)).save(name)
    names = [f"class {k}" for k in range(1000)]
    Path("names.txt").write_text("\n".join(names))
    name = "deit_small_patch16_224"
    shapes = jax.eval_shape(create_model(name).init, jax.random.key(0), np.zeros(IMAGE))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes
    )
    export_weights(variables, name, "deit_s.safetensors")
    return tmp_path


IMAGE = (1, 224, 224, 3)


@pytest.fixture
def torch_maps(project) -> Iterator[None]:
    """Official label maps of the photographs, CLASS/NAME.pt."""
    torch = pytest.importorskip("torch")
    for file in Path("photos").glob("*/*.jpg"):
        place = Path("label_maps") / file.parent.name / f"{file.stem}.pt"
        place.parent.mkdir(parents=True, exist_ok=True)
        scores = torch.randn(2, 5, 4, 4, dtype=torch.float16)
        scores[1] = torch.arange(5).reshape(5, 1, 1) % 3
        torch.save(scores, place)


def as_process(text: str) -> tuple[int, str]:
    """A line in a shell of its own, whose `python` is this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["sh", "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def in_process(words: list[str]) -> tuple[int, str]:
    """The same by its door's `main`, a training with `TINY` added."""
    door, args = words[2].removeprefix("vit_jax_tricks."), words[3:]
    if door == "main":
        given = [a.partition("=")[2] for a in args if a.startswith("--config=")]
        file = Path((given or ["configs/digits.py"])[0].partition(":")[0]).name
        args = [*args, *(f"--config.{pair}" for pair in TINY[file])]
    if door in ("export", "inspect"):
        door += ".__main__"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = importlib.import_module(f"vit_jax_tricks.{door}").main(args)
    return status, err.getvalue()


@pytest.mark.slow
def test_every_command_runs_as_typed(project, torch_maps):
    """In order, in one folder; all that fail are listed."""
    failed = []
    for document in DOCUMENTS:
        for line in every(document):
            if line.text.startswith(tuple(NOT_RUN)):
                continue
            if line.text.startswith(PROCESSES):
                status, errors = as_process(line.text)
            else:
                status, errors = in_process(line.words)
            if status != 0 or "Traceback" in errors:
                failed.append(f"{document}: {line.text}\n  {status}: {errors}")
    assert not failed, "\n".join(failed)
    for made in ("sheet.png", "out.png", "model.onnx", "runs/labels", "runs/maps"):
        assert Path(made).exists(), made

"""The command `predict`: its numbers, its picture, and every mistake one line."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import runs
import weight_files
from model_goldens import jit_once
from safetensors.numpy import save_file

from vit_jax_tricks import predict
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained
from vit_jax_tricks.runs import prediction


pytestmark = pytest.mark.usefixtures("home")
VIT = "vit_tiny_patch16_224"
SMALL = [f"--model.{key}={value}" for key, value in weight_files.SMALL.items()]
FILES = ("wide.png", "tall.webp", "grey.bmp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights with a head of 7, pictures of several kinds and names for the classes."""
    folder = tmp_path_factory.mktemp("predict")
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=7)
    state["head.weight"] *= 30  # far from uniform
    save_file(state, folder / "weights.safetensors")
    for name, shape in zip(FILES, ((30, 50), (61, 20), (24, 24)), strict=True):
        picture = PIL.Image.fromarray(weight_files.smooth_image(*shape))
        mode = "L" if name == "grey.bmp" else "RGB"
        picture.convert(mode).save(folder / name, lossless=True)
    names = ["猫", "$x$ & :cat:", "eine sehr lange Bezeichnung mit vielen Wörtern"]
    names += [f"name {k}" for k in range(3, 7)]
    (folder / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "names.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def command(folder, capsys, monkeypatch):
    """Exit status, output and errors of the command, run inside the folder."""
    monkeypatch.chdir(folder)

    def run(*args, given=(f"--model={VIT}", "--weights=weights.safetensors", *SMALL)):
        status = predict.main([*given, *args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def expected(folder):
    """Probabilities by hand: Pillow's bicubic, the centre, timm's normalisation."""
    images = []
    for name in FILES:
        picture = PIL.Image.open(folder / name).convert("RGB")
        width, height = picture.size
        short = int(16 / 0.9)
        if width > height:
            size = (int(short * width / height), short)
        else:
            size = (short, int(short * height / width))
        pixels = np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC))
        top, left = (round((side - 16) / 2) for side in pixels.shape[:2])
        images.append(pixels[top : top + 16, left : left + 16])
    batch = (np.stack(images).astype(np.float32) / 255 - 0.5) / 0.5
    model = create_model(VIT, 7, **weight_files.SMALL)
    variables, _ = load_pretrained(model, folder / "weights.safetensors", verbose=False)
    logits = jit_once(model.apply)(variables, jnp.asarray(batch))[0]
    return np.asarray(jax.nn.softmax(logits))


def shown(out):
    """The predictions of a command's output: {file: [(per cent, class), ...]}."""
    found, current = {}, None
    for line in out.splitlines():
        if line.startswith("  ") and "%" in line:
            share, name = line.split("%  ")
            found[current].append((float(share), name))
        elif line.startswith(FILES):
            current = line
            found[current] = []
    return found


def test_the_numbers(command, folder):
    status, out, err = command(*FILES)
    assert (status, err) == (0, "")
    probabilities = expected(folder)
    for row, file in zip(probabilities, FILES, strict=True):
        best = np.argsort(-row)[:5]
        assert [name for _, name in shown(out)[file]] == [f"class {k}" for k in best]
        given = [share for share, _ in shown(out)[file]]
        np.testing.assert_allclose(given, 100 * row[best], atol=0.0051)
    assert out.startswith(f"{folder}/weights.safetensors: 20 arrays loaded as they")


def test_more_pictures_than_a_batch_holds(command, monkeypatch):
    whole = shown(command(*FILES)[1])
    monkeypatch.setattr(prediction, "BATCH", 2)
    assert shown(command(*FILES)[1]) == whole


@pytest.mark.parametrize("labels", ["names.txt", "names.json"])
def test_names_and_how_many(labels, command):
    _, out, _ = command("wide.png", f"--labels={labels}", "--top=2")
    names = {name for _, name in shown(out)["wide.png"]}
    assert len(names) == 2
    assert not any(name.startswith("class") for name in names)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n", "\n\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_labels_as_editors_save_them(mark, end, command, folder):
    """A byte order mark, any ends of lines, and blank ones at last."""
    names = [f"é {k}\u2028" for k in range(7)]
    text = mark + end[:2].join(names) + end if len(end) < 3 else "\n".join(names) + end
    (folder / "saved.txt").write_bytes(text.encode())
    _, out, _ = command("wide.png", "--labels=saved.txt", "--top=7")
    assert sorted(re.findall(r"%  (.*\u2028)", out)) == names


def test_more_than_there_are(command):
    _, out, _ = command("wide.png", "--top=99")
    assert len(shown(out)["wide.png"]) == 7


def test_overrides_resize_the_model(command):
    status, out, _ = command("wide.png", "--model.img_size=24")
    assert status == 0
    assert "resized: pos_embed (1, 17, 16) -> (1, 37, 16)" in out
    status, out, _ = command("grey.bmp", "--model.in_chans=1")
    assert status == 0
    assert "resized: patch_embed.proj.weight" in out


def test_the_picture(command, folder):
    drawn = folder / "sheets" / "sheet.png"
    status, out, _ = command(*FILES, "--labels=names.txt", f"--picture={drawn}")
    assert status == 0
    assert f"picture: {drawn}" in out
    with PIL.Image.open(drawn) as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.std() > 20
    blue = (abs(pixels.astype(int) - (0x1F, 0x77, 0xB4)).sum(-1) < 9).any(1)
    bars = np.diff(np.flatnonzero(np.diff(blue.astype(int)))) > 0
    assert bars.sum() >= 2 * 3  # beginnings and ends of bars in three rows


MISTAKES = {
    "no picture": ([], "no picture is given"),
    "missing picture": (["none.png"], "none.png does not exist"),
    "a folder": (["."], "is a folder"),
    "no picture inside": (["names.txt"], "names.txt: not a picture"),
    "cut picture": (["cut.png"], "cut.png: damaged"),
    "unknown flag": (["--lables=x", "wide.png"], 'Did you mean "--labels"?'),
    "unknown override": (["--model.dept=1", "wide.png"], 'Did you mean "depth"?'),
    "override of a wrong type": (["--model.depth=x", "wide.png"], "depth='x'"),
    "classes as an override": (["--model.num_classes=7", "wide.png"], "--num_classes"),
    "other classes": (["--num_classes=3", "wide.png"], "leave --num_classes out"),
    "no top": (["--top=0", "wide.png"], "--top=0: expected a whole number"),
    "text for a number": (["--top=x", "wide.png"], "--top=x: expected a whole"),
    "unknown ema": (["--ema=maybe", "wide.png"], "--ema=maybe: unknown"),
    "no averages": (["--ema=true", "wide.png"], "holds no averaged weights"),
    "unknown resize": (["--resize=cubic", "wide.png"], "--resize=cubic: unknown"),
    "missing labels": (["--labels=none.txt", "wide.png"], "cannot be read"),
    "other labels": (
        ["--labels=three.txt", "wide.png"],
        "holds 3 names; the model has",
    ),
    "labels of something else": (["--labels=odd.json", "wide.png"], "a list of names"),
    "broken labels": (["--labels=broken.json", "wide.png"], "cannot be read"),
    "deep labels": (["--labels=deep.json", "wide.png"], "cannot be read"),
    "labels in latin-1": (["--labels=latin.txt", "wide.png"], "is not in UTF-8"),
    "labels in UTF-16": (["--labels=utf16.txt", "wide.png"], "is not in UTF-8"),
    "a folder of labels": (["--labels=.", "wide.png"], "cannot be read (Is a dir"),
    "picture of another kind": (["--picture=x.jpg", "wide.png"], "ends in .png"),
    "too many for a sheet": (["--picture=x.png", *["wide.png"] * 31], "up to 30"),
    "unwritable sheet": (["--picture=names.txt/x.png", "wide.png"], "the system"),
    "workdir and model": (["--workdir=.", "wide.png"], "leave --model out"),
    "a flag without value": (["wide.png", "--top"], "--top needs a value"),
}


@pytest.mark.parametrize(("args", "part"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(args, part, command, folder):
    (folder / "cut.png").write_bytes((folder / "wide.png").read_bytes()[:500])
    (folder / "three.txt").write_text("a\nb\nc\n")
    (folder / "odd.json").write_text('{"a": 1}')
    (folder / "broken.json").write_text("[")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "latin.txt").write_text("é\n" * 7, "latin-1")
    (folder / "utf16.txt").write_text("a\n" * 7, "utf-16")
    assert_refused(command(*args), part)


def assert_refused(result, part):
    status, _, err = result
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err


SOURCES = {
    "nothing": ([], "give --workdir=DIR, or --model=NAME with --weights=SOURCE"),
    "no weights": ([f"--model={VIT}"], "give --workdir=DIR, or --model"),
    "unknown model": (["--model=vit_tiny", "--weights=x"], 'Unknown model "vit_tiny"'),
    "missing weights": (
        [f"--model={VIT}", "--weights=x.safetensors"],
        "x.safetensors does not exist",
    ),
    "another model": (
        [f"--model={VIT}", "--weights=weights.safetensors"],
        "has shape (16,), the model expects (192,); check the model",
    ),
    "no head": (
        [f"--model={VIT}", "--weights=headless.safetensors"],
        "headless.safetensors has no head",
    ),
    "missing workdir": (["--workdir=none"], "/none does not exist"),
    "no run": (["--workdir=."], "holds no run with a readable model.json"),
}


@pytest.mark.parametrize(("given", "part"), SOURCES.values(), ids=SOURCES)
def test_sources(given, part, command, folder):
    save_file({"norm.bias": np.zeros(16, "f4")}, folder / "headless.safetensors")
    assert_refused(command("wide.png", given=given), part)


def test_help(capsys):
    assert predict.main(["--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--workdir=DIR", "--weights=SOURCE", "--labels=FILE", "--picture"):
        assert flag in out


class TestWorkdir:
    """A run predicts as it was evaluated, with its own classes."""

    def test_the_run_s_own(self, run, digit, command, tmp_path):
        status, out, err = command(str(digit), given=[f"--workdir={run}"])
        assert (status, err) == (0, "")
        assert f"{run}, step 12, averaged: 20 arrays loaded as they are" in out
        names = [line.split("%  ")[1] for line in out.splitlines() if "%" in line]
        assert len(names) == 5
        assert set(names) <= set(json.loads((run / "classes.json").read_text()))

    def test_plain_weights(self, run, digit, command):
        given = [f"--workdir={run}", "--ema=false"]
        assert ", step 12: 20" in command(str(digit), given=given)[1]

    def test_other_channels_are_refused(self, run, digit, command):
        given = [f"--workdir={run}", "--model.in_chans=3"]
        assert_refused(command(str(digit), given=given), "in_chans=3: the model was")

    def test_without_its_model_file(self, run, digit, command, tmp_path):
        copy = runs.copied(run, tmp_path)
        (copy / "model.json").write_text('{"name": "x"}')
        result = command(str(digit), given=[f"--workdir={copy}"])
        assert_refused(result, "start the training command of the run again")

    @pytest.fixture
    def digit(self, tmp_path):
        pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
        PIL.Image.fromarray(pixels).save(tmp_path / "digit.png")
        return tmp_path / "digit.png"


def test_as_a_process(tmp_path):
    done = runs.subprocess_command("none.png", module="predict", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "none.png does not exist" in done.stderr

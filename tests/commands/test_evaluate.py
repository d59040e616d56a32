"""The command `evaluate`: every example once, on any data, as training measures."""

import json

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import runs
import weight_files
from model_goldens import jit_once
from safetensors.numpy import save_file

from vit_jax_tricks import data, evaluate
from vit_jax_tricks.data import decode
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained


pytestmark = pytest.mark.usefixtures("home")
VIT = "vit_tiny_patch16_224"
SMALL = [f"--model.{key}={value}" for key, value in weight_files.SMALL.items()]


@pytest.fixture
def command(capsys):
    """Exit status, output and errors of the command."""

    def run(*args):
        status = evaluate.main([*map(str, args)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small ViT with a head of 3."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3), path)
    return [f"--model={VIT}", f"--weights={path}", *SMALL]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of pictures that differ in size."""
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate("abc"):
        (root / name).mkdir()
        for i in range(5 + label):
            shape = (20 + 3 * i, 30 - 2 * label)
            picture = weight_files.smooth_image(*shape)
            PIL.Image.fromarray(picture).save(root / name / f"{i}.png")
    return root


def measured(result):
    """The JSON line that is all of standard output."""
    status, out, _ = result
    assert status == 0
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_run_is_measured_as_in_training(run, command):
    last = [line for line in runs.metrics(run) if "test/accuracy" in line][-1]
    found = measured(command(f"--workdir={run}", "--json"))
    assert found.pop("weights") == f"{run}, step 12"
    assert found.pop("data") == "digits"
    assert found.pop("count") == 359
    assert found.keys() == {
        name.removeprefix("test/") for name in last if name.startswith("test/")
    }
    for name, value in found.items():
        assert value == pytest.approx(last[f"test/{name}"], rel=1e-6)


def test_any_batch_counts_the_same(run, command):
    whole = measured(command(f"--workdir={run}", "--json"))
    parts = measured(command(f"--workdir={run}", "--json", "--batch_size=100"))
    assert parts["count"] == whole["count"]
    assert parts["accuracy"] == whole["accuracy"]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_splits_add_up(run, command):
    test, train, both = (
        measured(command(f"--workdir={run}", "--json", f"--split={split}"))
        for split in ("test", "train", "all")
    )
    assert both["count"] == test["count"] + train["count"] == 1797
    for name in ("accuracy", "loss", "accuracy_ema"):
        total = sum(part[name] * part["count"] for part in (test, train))
        assert both[name] == pytest.approx(total / 1797, rel=1e-6)


def test_a_keyword_chooses_the_weights(run, command):
    whole = measured(command(f"--workdir={run}", "--json"))
    for ema, suffix in (("true", "_ema"), ("false", "")):
        one = measured(command(f"--workdir={run}", "--json", f"--ema={ema}"))
        assert "loss_ema" not in one
        assert one["loss"] == whole[f"loss{suffix}"]


def test_for_people(run, command):
    status, out, err = command(f"--workdir={run}", "--batch_size=120")
    assert (status, err) == (0, "")
    assert "batch 3/3" in out
    assert "ETA 0:00" in out
    assert any(line.split() == ["count", "359"] for line in out.splitlines())


@pytest.mark.parametrize("resize", ["area", "pil_bicubic"])
def test_weights_on_a_folder(resize, weights, pictures, command):
    """Against the forward pass by hand, with the model's own crop of 0.9."""
    args = [*weights, f"--data=folder:{pictures}", f"--resize={resize}"]
    found = measured(command(*args, "--json", "--split=all", "--batch_size=8"))
    files = sorted(pictures.glob("*/*.png"))
    views = [
        decode.center_crop(decode.decode(file.read_bytes()), 16, 0.9, resize)
        for file in files
    ]
    images = (np.stack(views).astype(np.float32) / 255 - 0.5) / 0.5
    labels = np.array(["abc".index(file.parent.name) for file in files])
    model = create_model(VIT, 3, **weight_files.SMALL)
    path = weights[1].partition("=")[2]
    variables, _ = load_pretrained(model, path, verbose=False)
    logits = np.asarray(jit_once(model.apply)(variables, jnp.asarray(images))[0])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["count"] == len(files) == 18
    assert found["accuracy"] == (logits.argmax(1) == labels).mean()
    loss = -log_p[np.arange(18), labels].mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert "accuracy_top5" not in found  # of three classes


def test_a_run_on_data_that_is_named(run, command):
    own = measured(command(f"--workdir={run}", "--json"))
    args = ["--data=digits", "--data.test_split=test[:100]"]
    assert measured(command(f"--workdir={run}", "--json", args[0])) == own
    assert measured(command(f"--workdir={run}", "--json", *args))["count"] == 100
    assert measured(command(f"--workdir={run}", "--json", args[1]))["count"] == 100


def test_a_run_on_other_classes(run, command, tmp_path):
    """A folder's classes are sorted by name, the digits' are not."""
    for name in data.build("digits").class_names:
        runs.pictures(tmp_path, (name,), 2)
    args = [f"--workdir={run}", f"--data=folder:{tmp_path}", "--split=all"]
    runs.refused(command(*args), "has other classes than the run was trained on")


MISTAKES = {
    "nothing": ([], "give --data=SPEC"),
    "no data": (["--model=x", "--weights=x"], "give --data=SPEC"),
    "no weights": (["--data=digits"], "give --workdir=DIR, or --model=NAME"),
    "unknown split": (["--workdir=x", "--split=val"], "--split=val: unknown."),
    "a value for a switch": (["--json=x"], "--json takes no value"),
    "a stray word": (["digits"], "digits: unknown argument"),
    "unknown flag": (["--wrkdir=x"], 'Did you mean "--workdir"?'),
    "missing workdir": (["--workdir=none"], "/none does not exist"),
}
DATA = {
    "other classes": (["--data=digits"], "digits has 10 classes, but the model has"),
    "unknown data": (["--data=digit"], 'Did you mean "digits"?'),
    "missing folder": (["--data=folder:/no/where"], "does not exist"),
    "unknown key": (["--data=digits", "--data.crp_pct=1"], 'Did you mean "crop_pct"?'),
    "wrong type": (["--data=digits", "--data.crop_pct=x"], "expected float"),
    "idle key": (["--data=digits", "--data.skip_broken=True"], "has no effect"),
    "no batch": (["--data=digits", "--batch_size=0"], "--batch_size=0: expected"),
    "oblong": (
        ["--data=digits", "--model.img_size=(16,32)"],
        "the model takes 16x32 images",
    ),
}


@pytest.mark.parametrize(("args", "part"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(args, part, command):
    runs.refused(command(*args), part)


@pytest.mark.parametrize(("args", "part"), DATA.values(), ids=DATA)
def test_data_that_does_not_fit(args, part, weights, command):
    runs.refused(command(*weights, *args), part)


def test_channels_that_do_not_fit(weights, command, tmp_path):
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=10)
    save_file(state, tmp_path / "ten.safetensors")
    given = [weights[0], f"--weights={tmp_path / 'ten.safetensors'}", *SMALL]
    runs.refused(command(*given, "--data=digits"), "give --model.in_chans=1.")
    given = [*given, "--data=digits", "--model.in_chans=1"]
    assert measured(command(*given, "--json"))["count"] == 359


def test_a_run_without_its_config(run, command, tmp_path):
    copy = runs.copied(run, tmp_path)
    (copy / "config.json").write_text("{}")
    runs.refused(command(f"--workdir={copy}"), "holds no readable config.json")


def test_help(capsys):
    assert evaluate.main(["-h"]) == 0
    out = capsys.readouterr().out
    for flag in ("--workdir=DIR", "--data=SPEC", "--split=test", "--json"):
        assert flag in out


def test_as_a_process(tmp_path):
    done = runs.subprocess_command("--workdir=none", module="evaluate", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr

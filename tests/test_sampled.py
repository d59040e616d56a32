"""No command judges a folder by its first classes: its samples are over all of them."""

import contextlib
import json

import numpy as np
import PIL.Image
import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks import prune, quantize, relabel
from vit_jax_tricks.commands import relabel as relabelling
from vit_jax_tricks.data import Data
from vit_jax_tricks.export import __main__ as export
from vit_jax_tricks.export import proof
from vit_jax_tricks.inspect import __main__ as inspect
from vit_jax_tricks.inspect import augment_sheet


pytestmark = pytest.mark.usefixtures("home")
CLASSES, EACH = "abc", 30
VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that always says the first class, and pictures ordered by class."""
    folder = tmp_path_factory.mktemp("sampled")
    state = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3)
    state["head.bias"] = np.array([1e3, 0, 0], np.float32)
    save_file(state, folder / "weights.safetensors")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(EACH):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                path = folder / "data" / split / name / f"{i:02}.png"
                PIL.Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def command(folder, capsys, monkeypatch):
    """Runs a command; gives its output and the labels of each sample that it saw."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    monkeypatch.setattr(proof, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(proof, "BATCHES", (1,))
    samples, batches_of = [], Data.sample_batches

    @contextlib.contextmanager
    def spied(source, sample, batch_size):
        seen = []
        samples.append(seen)

        def watched(batches):
            for batch in batches:
                seen.extend(batch["label"].tolist())
                yield batch

        with batches_of(source, sample, batch_size) as batches:
            yield watched(batches)

    monkeypatch.setattr(Data, "sample_batches", spied)

    def run(main, *args, prefix="--"):
        given = [f"{prefix}model={VIT}", f"{prefix}weights=weights.safetensors"]
        given += [f"{prefix}model.{k}={v}" for k, v in weight_files.SMALL.items()]
        status = main([*given, "--data=folder:data", *args])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out + err, [np.bincount(labels, minlength=3) for labels in samples]

    return run


def test_export(command, folder):
    """37 of 90 images, which no batch divides: no padding is counted either."""
    args = ("--out=a.onnx", "--check=37", "--json")
    text, (seen,) = command(export.main, *args)
    found = json.loads(text.splitlines()[0])
    assert sorted(seen) == [12, 12, 13]
    assert (found["images"], found["images_in_split"], found["classes"]) == (37, 90, 3)
    assert found["jax"]["accuracy"] == pytest.approx(seen[0] / 37)
    assert found["jax"]["accuracy_reference"] == pytest.approx(seen[0] / 37)
    assert "37 images of 90 in test, sampled over all 3 classes, seed 0" in text


@pytest.mark.slow
def test_int8(command):
    args = ("--out=b.onnx", "--int8", "--check=30", "--calibration=45", "--json")
    text, (shown, calibration) = command(export.main, *args)
    assert (shown.tolist(), calibration.tolist()) == ([10] * 3, [15] * 3)
    assert json.loads(text.splitlines()[0])["float"]["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_quantize(command, folder):
    args = ("--out=q", "--calibration=33", "--sensitivity", "--images=5")
    text, (calibration, sensitivity) = command(quantize.main, *args)
    assert calibration.tolist() == [11] * 3
    assert sorted(sensitivity) == [1, 2, 2]
    assert "33 images of 90 in train, sampled over all 3 classes" in text
    report = json.loads((folder / "q" / "report" / "quantize.json").read_text())
    assert report["calibration images"] == 33
    assert report["calibration"]["classes"] == 3


@pytest.mark.slow
def test_more_than_there_is_is_said(command):
    text, (calibration,) = command(quantize.main, "--out=more", "--calibration=91")
    assert calibration.tolist() == [30] * 3
    assert "all 90 train images (91 were asked for)" in text


@pytest.mark.slow
def test_prune(command, folder):
    args = ("--out=p", "--flops=0.8", "--images=21", "--batch_size=8")
    text, (scores,) = command(prune.main, *args)
    assert scores.tolist() == [7] * 3
    said = "21 images of 90 in train, sampled over all 3 classes, seed 0"
    assert said in text
    assert said in (folder / "p" / "report" / "pruning.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["whole", "random_resized"])
def test_the_picture_of_inspect_augment(crop, folder, capsys, monkeypatch):
    """A crop is drawn for each step; the examples stay."""
    monkeypatch.chdir(folder)
    shown = []

    def spied(tiles, captions, path, *, columns, **_):
        shown.append((tiles[:columns], captions[:columns]))
        return path

    monkeypatch.setattr(augment_sheet, "contact_sheet", spied)
    changes = {"data.name": "folder:data", "data.image_size": 16}
    changes |= {"data.train_crop": crop, "augment.mixup": 0.0}
    args = ["augment", "--images=12", "--config=configs/digits.py"]
    args += [f"--config.{key}={value}" for key, value in changes.items()]
    for step in (0, 0, 1):
        assert inspect.main([*args, f"--step={step}"]) == 0
    said = "12 images of 90 in train, sampled over all 3 classes, seed 0"
    assert capsys.readouterr().out.count(said) == 3
    (tiles, names), again, later = shown
    assert sorted(names) == sorted(4 * CLASSES)
    assert names == again[1] == later[1]
    np.testing.assert_array_equal(tiles, again[0])
    assert np.array_equal(tiles, later[0]) == (crop == "whole")


@pytest.mark.slow
def test_the_picture_of_relabel(command, monkeypatch):
    shown = []
    write = relabelling.write_sheet

    def spied(path, pack, index, images, labels, **options):
        shown.extend(labels)
        return write(path, pack, index, images, labels, **options)

    monkeypatch.setattr(relabelling, "write_sheet", spied)
    args = ("--out=pack", "--picture=pack.png")
    text, _ = command(relabel.main, *args, prefix="--teacher.")
    assert np.bincount(shown).tolist() == [8] * 3
    assert "24 images of 90 in train, sampled over all 3 classes, seed 0" in text

"""The command `relabel`: the teacher's own numbers, resumed, converted, drawn."""

import argparse
import contextlib
import json
import os
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import runs
import weight_files
from model_goldens import jit_once
from safetensors.numpy import save_file

from vit_jax_tricks import data, relabel, relabelling
from vit_jax_tricks.data import decode as pictures
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack_code import decode
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses import token_label_targets
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained


pytestmark = pytest.mark.usefixtures("home")
VIT = "vit_tiny_patch16_224"
SMALL = [f"--teacher.model.{k}={v}" for k, v in weight_files.SMALL.items()]


@pytest.fixture
def command(capsys):
    """Exit status, output and errors of the command."""

    def run(*args):
        status = relabel.main([*map(str, args)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    runs.train(workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two splits of three classes of pictures that differ in size."""
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate("abc"):
        for part, count in (("train", 5 + label), ("val", 1)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture = weight_files.smooth_image(20 + 3 * i, 30 - 2 * label)
                PIL.Image.fromarray(picture).save(root / part / name / f"{i}.x.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small ViT with a head of 3."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3), path)
    return path


@pytest.fixture
def teacher(weights):
    return [f"--teacher.model={VIT}", f"--teacher.weights={weights}", *SMALL]


def succeeded(result):
    status, out, err = result
    assert (status, err) == (0, "")
    return out


def refused(result, part):
    status, _, err = result
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert part in err


def stored(path, index):
    return {
        k: np.asarray(v) for k, v in decode(LabelPack.open(path).rows(index)).items()
    }


def sparse(classes, scores, k):
    """Scores of all classes in order, where all are kept."""
    out = np.empty((*scores.shape[:-1], k), np.float32)
    np.put_along_axis(out, classes, scores, -1)
    return out


class TestNumbers:
    def test_a_folder_by_hand(self, teacher, folder, command, tmp_path, weights):
        """Whole pictures as squares; all three classes are kept, as they are."""
        args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
        out = succeeded(command(*args, "--batch_size=8"))
        assert "an approximation" in out
        assert "example 18/18" in out
        assert "18 images, 4x4 cells, 3 of 3 classes" in out
        files = sorted((folder / "train").glob("*/*.png"))
        views = [
            pictures.resize(pictures.decode(file.read_bytes()), (16, 16))
            for file in files
        ]
        images = jnp.asarray((np.stack(views).astype(np.float32) / 255 - 0.5) / 0.5)
        model = create_model(VIT, 3, **weight_files.SMALL)
        variables, _ = load_pretrained(model, weights, verbose=False)
        logits, aux = jit_once(model.apply)(variables, images)
        head = variables["params"]["head"]
        kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
        tokens = np.asarray(aux["tokens"])[:, 1:] @ kernel + bias
        found = stored(tmp_path / "pack", np.arange(18))
        whole = sparse(found["class_classes"], found["class_scores"], 3)
        np.testing.assert_allclose(whole, logits, rtol=0, atol=1e-5)
        assert (np.diff(found["class_scores"]) <= 0).all()
        cells = sparse(found["token_classes"], found["token_scores"], 3)
        expected = np.asarray(tokens).reshape(18, 4, 4, 3)
        spread = np.ptp(expected, axis=(1, 2, 3))[:, None, None, None]
        assert (np.abs(cells - expected) <= spread / 510 + 1e-5).all()

    def test_a_run_on_its_own_data(self, run, command, tmp_path):
        """Kept classes have the run's own probabilities, the others those in sum."""
        args = [f"--teacher={run}", "--top=3", f"--out={tmp_path / 'pack'}"]
        out = succeeded(command(*args))
        assert "1438 images, 4x4 cells, 3 of 10 classes" in out
        trained = relabelling.labeller(parsed(args, tmp_path)).trained
        source = data.build("digits")
        batch = next(source.test_batches(64, "train"))
        images = jnp.asarray(batch["image"])

        @jit_once
        def logits_of(variables, pixels):
            x = (pixels.astype(jnp.float32) / 255 - mean) / std
            return trained.model.apply(variables, x)[0]

        mean, std = (
            jnp.asarray(v).reshape(1, 1, 1, -1)
            for v in (trained.spec.mean, trained.spec.std)
        )
        exact = jax.nn.softmax(logits_of(trained.variables[""], images))
        found = stored(tmp_path / "pack", batch["index"])
        filled = np.zeros((64, 10), np.float32)
        np.put_along_axis(filled, found["class_classes"], found["class_scores"], -1)
        kept = np.take_along_axis(
            np.asarray(jax.nn.softmax(filled)), found["class_classes"], 1
        )
        best = np.sort(np.asarray(exact), 1)[:, ::-1][:, :3]
        np.testing.assert_allclose(kept, best, atol=1e-5)
        spec = LabelPack.open(tmp_path / "pack").spec
        assert spec.teacher["weights"] == f"{run}, step 12, averaged"
        assert spec.rest == "mean"
        assert spec.preprocessing["crop"] == "whole"
        LabelPack.open(tmp_path / "pack").check(source, num_classes=10)

    def test_the_shift(self):
        """softmax([kept, 0, ..., 0]) has the kept classes' own probabilities."""
        logits = jax.random.normal(jax.random.key(0), (2, 3, 40)) * 4 - 9
        scores, classes = relabelling.best(logits, 5, shifted=True)
        whole = jnp.concatenate([scores, jnp.zeros((2, 3, 35))], -1)
        expected = jnp.take_along_axis(jax.nn.softmax(logits), classes, -1)
        found = jax.nn.softmax(whole)[..., :5]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        raw, same = relabelling.best(logits, 5, shifted=False)
        np.testing.assert_array_equal(classes, same)
        np.testing.assert_array_equal(raw, jax.lax.top_k(logits, 5)[0])

    @pytest.mark.parametrize("value", [1e4, -1e4, 0.0])
    def test_the_shift_at_extremes(self, value):
        logits = jnp.full((1, 8), value).at[0, 3].set(value + 2)
        scores, classes = relabelling.best(logits, 2, shifted=True)
        assert classes[0, 0] == 3
        np.testing.assert_allclose(scores, [[2, 0]], atol=2e-3)

    def test_another_grid_and_raw_scores(self, teacher, folder, command, tmp_path):
        args = [*teacher, f"--data=folder:{folder}", "--raw", "--top=1"]
        succeeded(command(*args, f"--out={tmp_path / 'own'}"))
        succeeded(command(*args, f"--out={tmp_path / 'half'}", "--grid=2x4"))
        pack = LabelPack.open(tmp_path / "half")
        assert (pack.spec.grid, pack.spec.rest) == ((2, 4), "zero")
        own, half = (stored(tmp_path / n, np.arange(18)) for n in ("own", "half"))
        np.testing.assert_array_equal(own["class_scores"], half["class_scores"])
        assert half["token_scores"].shape == (18, 2, 4, 1)


def parsed(args, tmp_path):
    from vit_jax_tricks import command

    values = ("teacher", "out", "top")
    return command.parse(args, values=values, sections=("teacher", "data"))


class TestResumed:
    def test_stopped_and_given_again(
        self, teacher, folder, command, tmp_path, monkeypatch
    ):
        """A signal keeps complete files; the bytes are those of one go."""
        args = [*teacher, f"--data=folder:{folder}", "--examples_per_file=7"]
        succeeded(command(*args, f"--out={tmp_path / 'one'}"))
        with monkeypatch.context() as patch:
            patch.setattr(relabelling.Labeller, "_record", self.stopping)
            out = succeeded(command(*args, f"--out={tmp_path / 'two'}"))
        assert "stopped; run the same command again" in out
        assert len(list((tmp_path / "two").glob("labels*"))) == 1
        out = succeeded(command(*args, f"--out={tmp_path / 'two'}"))
        assert "7 of 18 examples are there already" in out
        one, two = (runs.snapshot(tmp_path / name) for name in ("one", "two"))
        assert one == two
        out = succeeded(command(*args, f"--out={tmp_path / 'two'}"))
        assert "is complete already" in out
        assert runs.snapshot(tmp_path / "two") == one
        refused(command(*args, "--top=2", f"--out={tmp_path / 'two'}"), "another top")

    @staticmethod
    def stopping(labeller, labels, found, before=relabelling.Labeller._record):
        if len(labels) < 7 or labels[0] != 0:  # in the second file
            os.kill(os.getpid(), signal.SIGTERM)
        return before(labeller, labels, found)


class TestMaps:
    """Official label maps, through a stand-in for torch."""

    @pytest.fixture
    def torch(self, monkeypatch):
        class Tensor:
            def __init__(self, array):
                self.array, self.shape = array, array.shape

            def float(self):
                return Tensor(self.array.astype(np.float32))

            def numpy(self):
                return self.array

        def load(path, **options):
            assert options == {"map_location": "cpu", "weights_only": True}
            found = np.load(path)
            return Tensor(found) if found.ndim else found.item()

        module = types.ModuleType("torch")
        module.load, module.Tensor = load, Tensor
        module.serialization = argparse.Namespace(
            safe_globals=lambda _: contextlib.nullcontext(),
            get_unsafe_globals_in_checkpoint=lambda _: [],
        )
        monkeypatch.setitem(sys.modules, "torch", module)

    @pytest.fixture
    def maps(self, folder, tmp_path):
        """CLASS/NAME.pt with NAME up to the first dot, as TokenLabeling writes them."""
        rng = np.random.default_rng(0)
        written = {}
        for file in sorted((folder / "train").glob("*/*.png")):
            place = tmp_path / "maps" / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            scores = -np.sort(-rng.normal(0, 5, (5, 6, 6)), axis=0)
            ids = rng.permuted(np.tile(np.arange(3), (6, 6, 2))[..., :5], axis=-1)
            array = np.stack([scores, np.moveaxis(ids, -1, 0)]).astype(np.float16)
            name = place / f"{file.name.split('.')[0]}.pt"
            with name.open("wb") as handle:
                np.save(handle, array)
            written[name] = array
        return written

    @pytest.fixture
    def args(self, folder, tmp_path, torch):
        where = [f"--from={tmp_path / 'maps'}", f"--out={tmp_path / 'pack'}"]
        return [*where, f"--data=folder:{folder}"]

    def test_converted(self, args, maps, command, tmp_path):
        out = succeeded(command(*args, f"--picture={tmp_path / 'sheet.png'}"))
        assert "18 images, 6x6 cells, 3 of 3 classes" in out
        found = stored(tmp_path / "pack", np.arange(18))
        for i, array in enumerate(maps.values()):
            scores, ids = np.moveaxis(array.astype(np.float32), 1, -1)[..., :3]
            np.testing.assert_array_equal(found["token_classes"][i], ids)
            error = np.abs(found["token_scores"][i] - scores).max()
            assert error <= np.ptp(scores) / 510 * 1.01
            mean = np.zeros(3, np.float32)
            for k in range(3):
                mean[k] = scores[ids == k].sum() / 36
            order = np.argsort(-mean, kind="stable")
            np.testing.assert_array_equal(found["class_classes"][i], order)
            expected = mean[order]
            np.testing.assert_allclose(found["class_scores"][i], expected, rtol=1e-5)

    def test_the_targets_of_the_whole_picture(self, args, maps, command, tmp_path):
        """Within the code's error of those from the maps themselves."""
        succeeded(command(*args))
        found = stored(tmp_path / "pack", np.arange(18))
        arrays = np.stack(list(maps.values())).astype(np.float32)[:, :, :3]
        scores, ids = (np.moveaxis(arrays[:, i], 1, -1) for i in (0, 1))
        options = {
            "boxes": jnp.tile(jnp.asarray([[0.1, 0.2, 0.6, 0.7]]), (18, 1)),
            "num_classes": 3,
            "size": (4, 4),
        }
        ours = token_label_targets(
            scores=jnp.asarray(found["token_scores"]),
            classes=jnp.asarray(found["token_classes"]),
            **options,
        )
        theirs = token_label_targets(
            scores=jnp.asarray(scores),
            classes=jnp.asarray(ids.astype(np.int32)),
            **options,
        )
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, atol=np.tanh(40 / 255 / 4))

    def test_a_missing_map(self, args, maps, command):
        next(iter(maps)).unlink()
        refused(command(*args), "0.pt is missing, the label map of train/a/0.x.png")

    def replaced(self, maps, array, place=3):
        with [*maps][place].open("wb") as handle:
            np.save(handle, array)

    @pytest.mark.parametrize(
        ("array", "part"),
        [
            (np.zeros((2, 5, 6, 7), np.float16), "3.pt holds 6x7x5"),
            (np.zeros((5, 6, 6), np.float16), "3.pt holds a tensor of shape (5, 6, 6)"),
            (np.full((2, 5, 6, 6), 3, np.float16), "3.pt names class 3"),
            (np.full((2, 5, 6, 6), 0.5, np.float16), "3.pt holds scores or classes"),
            (np.full((2, 5, 6, 6), np.nan, np.float16), "3.pt holds scores or classes"),
            (np.array(1.0), "3.pt holds float; a label map is"),
        ],
        ids=["grid", "shape", "class", "half a class", "nan", "a number"],
    )
    def test_a_map_of_another_kind(self, array, part, args, maps, command):
        self.replaced(maps, array)
        refused(command(*args), part)

    def test_a_damaged_map(self, args, maps, command):
        [*maps][3].write_bytes(b"x")
        refused(command(*args), "3.pt is not a complete PyTorch file")

    def test_two_pictures_with_one_map(self, args, maps, folder, command, tmp_path):
        copy = runs.copied(folder, tmp_path)
        (copy / "train/a/0.x.png").rename(copy / "train/a/1.y.png")
        args[-1] = f"--data=folder:{copy}"
        refused(
            command(*args), "train/a/1.x.png and train/a/1.y.png have one label map"
        )

    def test_of_no_folder(self, args, maps, command):
        refused(command(*args[:-1], "--data=digits"), "belong to files by name")
        refused(command(*args, "--from=none"), "--from=none is no folder")

    def test_without_torch(self, args, maps, command, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        refused(command(*args), "pip install 'vit_jax_tricks[torch]'")


def test_maps_by_torch_itself(folder, command, tmp_path):
    torch = pytest.importorskip("torch")
    scores = torch.randn(2, 5, 4, 4, dtype=torch.float16)
    scores[1] = torch.arange(5).reshape(5, 1, 1) % 3
    for file in (folder / "train").glob("*/*.png"):
        place = tmp_path / "maps" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        torch.save(scores, place / f"{file.name.split('.')[0]}.pt")
    where = [f"--from={tmp_path / 'maps'}", f"--out={tmp_path / 'pack'}"]
    succeeded(command(*where, f"--data=folder:{folder}"))
    found = stored(tmp_path / "pack", np.array([7]))
    expected = np.moveaxis(scores[0, :3].float().numpy(), 0, -1)
    assert np.abs(found["token_scores"][0] - expected).max() < np.ptp(expected) / 500


def test_the_picture(teacher, folder, command, tmp_path):
    drawn = tmp_path / "sheets" / "sheet.png"
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
    assert f"picture: {drawn}" in succeeded(command(*args, f"--picture={drawn}"))
    with PIL.Image.open(drawn) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size[0] > 4 * 2 * 100
        pixels = np.asarray(sheet.convert("HSV"))
    assert (pixels[..., 1] > 100).mean() > 0.1  # colours over grey


MISTAKES = {
    "nothing": ([], "give --out=DIR"),
    "no teacher": (["--out=x", "--data=digits"], "give --teacher=DIR, or --teacher."),
    "no data": (["--out=x", "TEACHER"], "give --data=SPEC"),
    "unknown flag": (["--techer=x"], 'Did you mean "--teacher"?'),
    "unknown key": (["--out=x", "--teacher.wights=x"], 'Did you mean "weights"?'),
    "unknown override": (
        ["--out=x", "TEACHER", "--teacher.model.dept=2"],
        'Did you mean "depth"?',
    ),
    "missing run": (["--out=x", "--teacher=none"], "--teacher none does not exist"),
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
        "digits has 10 classes, and the model tells 3 apart",
    ),
    "part of the examples": (
        ["--out=x", "TEACHER", "FOLDER", "--data.examples=5"],
        "--data.examples: a label pack is of whole pictures and the whole",
    ),
    "a crop": (
        ["--out=x", "TEACHER", "FOLDER", "--data.train_crop=center"],
        "a label pack is of whole pictures",
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
    refused(command(*(a for arg in args for a in parts.get(arg, [arg]))), part)
    assert not (tmp_path / "x").exists()


def test_an_out_folder_of_something_else(teacher, folder, command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path}"]
    refused(command(*args), "holds something else; give a new or an empty folder")
    assert runs.snapshot(tmp_path).keys() == {"notes.txt"}


def test_a_teacher_that_is_not_finite(teacher, folder, command, tmp_path, monkeypatch):
    best = relabelling.best
    monkeypatch.setattr(
        relabelling,
        "best",
        lambda x, top, shifted: best(x * jnp.nan, top, shifted=False),
    )
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
    refused(command(*args), "the teacher's scores are not finite")


def test_more_classes_than_two_bytes_number():
    with pytest.raises(UserError, match="65537 classes: a label pack numbers up to"):
        relabelling.sizes(parsed([], None), 65537)


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
    assert done.stderr == "error: --teacher none does not exist; give that of a run.\n"

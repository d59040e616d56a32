"""The command `relabel`: the teacher's own numbers, resumed, drawn."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import runs
import weight_files
from model_goldens import jit_once
from relabel_checks import sparse, stored, succeeded

from vit_jax_tricks import data
from vit_jax_tricks.data import decode as pictures
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained
from vit_jax_tricks.runs.trained import load
from vit_jax_tricks.teach import labeller


pytestmark = pytest.mark.usefixtures("home")
VIT = "vit_tiny_patch16_224"
SMALL = [f"--teacher.model.{k}={v}" for k, v in weight_files.SMALL.items()]


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
        trained = load(run)
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
        scores, classes = labeller.best(logits, 5, shifted=True)
        whole = jnp.concatenate([scores, jnp.zeros((2, 3, 35))], -1)
        expected = jnp.take_along_axis(jax.nn.softmax(logits), classes, -1)
        found = jax.nn.softmax(whole)[..., :5]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        raw, same = labeller.best(logits, 5, shifted=False)
        np.testing.assert_array_equal(classes, same)
        np.testing.assert_array_equal(raw, jax.lax.top_k(logits, 5)[0])

    @pytest.mark.parametrize("value", [1e4, -1e4, 0.0])
    def test_the_shift_at_extremes(self, value):
        logits = jnp.full((1, 8), value).at[0, 3].set(value + 2)
        scores, classes = labeller.best(logits, 2, shifted=True)
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


class TestResumed:
    def test_stopped_and_given_again(
        self, teacher, folder, command, tmp_path, monkeypatch
    ):
        """A signal keeps complete files; the bytes are those of one go."""
        args = [*teacher, f"--data=folder:{folder}", "--examples_per_file=7"]
        succeeded(command(*args, f"--out={tmp_path / 'one'}"))
        with monkeypatch.context() as patch:
            patch.setattr(labeller, "encode", self.stopping)
            status, out, err = command(*args, f"--out={tmp_path / 'two'}")
        assert (status, err) == (143, "")
        assert "stopped; run the same command again" in out
        assert len(list((tmp_path / "two").glob("labels*"))) == 1
        out = succeeded(command(*args, f"--out={tmp_path / 'two'}"))
        assert "7 of 18 examples are there already" in out
        one, two = (runs.snapshot(tmp_path / name) for name in ("one", "two"))
        assert one == two
        out = succeeded(command(*args, f"--out={tmp_path / 'two'}"))
        assert "is complete already" in out
        assert runs.snapshot(tmp_path / "two") == one
        runs.refused(
            command(*args, "--top=2", f"--out={tmp_path / 'two'}"), "another top"
        )

    @staticmethod
    def stopping(*, labels, before=labeller.encode, **found):
        if len(labels) < 7 or labels[0] != 0:  # in the second file
            os.kill(os.getpid(), signal.SIGTERM)
        return before(labels=labels, **found)


def test_the_picture(teacher, folder, command, tmp_path):
    drawn = tmp_path / "sheets" / "sheet.png"
    args = [*teacher, f"--data=folder:{folder}", f"--out={tmp_path / 'pack'}"]
    assert f"picture: {drawn}" in succeeded(command(*args, f"--picture={drawn}"))
    with PIL.Image.open(drawn) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size[0] > 4 * 2 * 100
        pixels = np.asarray(sheet.convert("HSV"))
    assert (pixels[..., 1] > 100).mean() > 0.1  # colours over grey

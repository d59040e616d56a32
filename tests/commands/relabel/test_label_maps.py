"""The official label maps become packs."""

import argparse
import contextlib
import sys
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from relabel_checks import stored, succeeded

from vit_jax_tricks.losses import token_label_targets


pytestmark = pytest.mark.usefixtures("home")


class TestMaps:
    """Official label maps, through a stand-in for torch."""

    @pytest.fixture
    def torch(self, monkeypatch):
        one_by_one = threading.Lock()

        class Tensor:
            def __init__(self, array):
                self.array, self.shape = array, array.shape

            def float(self):
                return Tensor(self.array.astype(np.float32))

            def numpy(self):
                return self.array

        def load(path, **options):
            assert options == {"map_location": "cpu", "weights_only": True}
            with one_by_one:  # NumPy parses headers by ast: no threads in Python 3.11
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
        runs.refused(
            command(*args), "0.pt is missing, the label map of train/a/0.x.png"
        )

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
        runs.refused(command(*args), part)

    def test_a_damaged_map(self, args, maps, command):
        [*maps][3].write_bytes(b"x")
        runs.refused(command(*args), "3.pt is not a complete PyTorch file")

    def test_two_pictures_with_one_map(self, args, maps, folder, command, tmp_path):
        copy = runs.copied(folder, tmp_path)
        (copy / "train/a/0.x.png").rename(copy / "train/a/1.y.png")
        args[-1] = f"--data=folder:{copy}"
        runs.refused(
            command(*args), "train/a/1.x.png and train/a/1.y.png share a label map"
        )

    def test_of_no_folder(self, args, maps, command):
        runs.refused(command(*args[:-1], "--data=digits"), "belong to files by name")
        runs.refused(command(*args, "--from=none"), "/none is not a folder")

    def test_without_torch(self, args, maps, command, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        runs.refused(command(*args), "pip install 'vit_jax_tricks[torch]'")


def test_maps_by_torch_itself(torch, folder, command, tmp_path):
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

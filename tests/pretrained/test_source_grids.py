"""Models of grids that are no square: what they save, they load, value for value."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files
from goldens import base_normal
from safetensors.numpy import load_file, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.pretrained import export_weights, load_pretrained
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.fit import checked_grid
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.pretrained.resize_relative import resize_relative_bias
from vit_jax_tricks.runs import made_run


VIT = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}
# Sizes of as many patches as a square has (4 x 9, 2 x 8, 9 x 4), for each family.
FAMILIES = {
    VIT: ((64, 144), SMALL),
    "deit_tiny_distilled_patch16_224": ((32, 128), SMALL),
    "deit3_small_patch16_224": ((144, 64), SMALL),
    "vit_base_patch16_siglip_224": ((144, 64), SMALL),
    "vit_small_patch14_reg4_dinov2": ((28, 112), SMALL),
    "vit_base_patch16_clip_224": ((64, 144), SMALL),
    "clip_vit_b16_image": ((64, 144), SMALL),
    "vit_relpos_base_patch16_224": ((32, 128), SMALL),
    "eva02_tiny_patch14_224": ((28, 112), SMALL),
    "vit_small_patch16_rope_mixed_ape_224": ((32, 128), SMALL),
    "beit_base_patch16_224": ((16, 80), SMALL),  # 1 x 9 offsets, as of 2 x 2
    "cait_xxs24_224": ((64, 144), SMALL),
    "convit_tiny": ((32, 128), SMALL | {"depth": 2, "local_up_to_layer": 1}),
    "lvvit_t": ((32, 128), {"embed_dim": 16, "depth": 2, "num_heads": 2}),
    "t2t_vit_7": ((64, 144), {"depth": 1}),
    "volo_d1_224": ((64, 144), {"layers": (1, 1, 1, 1)}),
    "swin_tiny_patch4_window7_224": (
        (32, 128),
        {
            "embed_dim": 16,
            "depths": (1, 1),
            "num_heads": (2, 2),
            "window_size": (2, 8),
            "ape": True,
        },
    ),
    "swinv2_tiny_window8_256": (
        (32, 128),
        {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": (2, 8)},
    ),
    "coatnet_0_224": ((32, 128), {"embed_dim": (16, 16, 32, 32), "depths": (1,) * 4}),
}


def made(name, size, **fields):
    """A small model and variables of its shapes, all of them different numbers."""
    model = create_model(name, 3, img_size=size, **fields)
    images = jnp.zeros((1, *model.image_shape))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    named = jax.tree_util.tree_map_with_path(
        lambda path, s: base_normal(str(path), s.shape), shapes
    )
    return model, jax.device_put(named)


QUICK = {VIT, "deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "lvvit_t"}


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES],
)
def test_what_is_exported_is_loaded_again(name, tmp_path):
    size, fields = FAMILIES[name]
    model, variables = made(name, size, **fields)
    path = tmp_path / "w.safetensors"
    export_weights(variables, name, path)
    again, report = load_pretrained(model, path, verbose=False)
    chex.assert_trees_all_equal(again, variables)
    assert report.resized == ()


@pytest.mark.parametrize("name", [VIT, "lvvit_t"])
def test_what_a_workdir_holds_is_loaded_again(name, tmp_path):
    size, fields = FAMILIES[name]
    model, variables = made(name, size, **fields)
    made_run.save(tmp_path, variables)
    again, report = load_pretrained(model, tmp_path, verbose=False)
    chex.assert_trees_all_equal(again, variables)
    assert report.resized == ()


def test_a_workdir_says_its_grid(tmp_path):
    """A run of 4 x 9 patches in models of 6 x 6, of 2 x 3 and of 9 x 4."""
    fields = SMALL | {"num_classes": 3}
    model, variables = made(VIT, (64, 144), **SMALL)
    made_run.save(tmp_path, variables)
    text = {"name": VIT, "fields": {"img_size": [64, 144], **fields}}
    (tmp_path / "model.json").write_text(json.dumps(text))
    table = variables["params"]["pos_embed"]
    for rows, columns in ((6, 6), (2, 3), (9, 4)):
        other = create_model(VIT, img_size=(16 * rows, 16 * columns), **fields)
        again, report = load_pretrained(other, tmp_path, verbose=False)
        expected = resize_positions(table, (rows, columns), prefix=1, old_grid=(4, 9))
        np.testing.assert_array_equal(again["params"]["pos_embed"], expected)
        assert (len(report.resized), report.notes) == (1, ())
    (tmp_path / "model.json").write_text("[")
    again, _ = load_pretrained(model, tmp_path, verbose=False)
    chex.assert_trees_all_equal(again, variables)


def test_an_export_says_its_grid_if_it_is_given(tmp_path):
    """As a run does; without it only models of the same grid load the right table."""
    model, variables = made(VIT, (64, 144), **SMALL)
    told, untold = tmp_path / "told.safetensors", tmp_path / "untold.safetensors"
    export_weights(variables, VIT, told, grid=model.grid)
    export_weights(variables, VIT, untold)
    chex.assert_trees_all_equal(load_file(told), load_file(untold))
    again, report = load_pretrained(model, told, verbose=False)
    chex.assert_trees_all_equal(again, variables)
    assert (report.resized, report.notes) == ((), ())
    table = variables["params"]["pos_embed"]
    for rows, columns in ((6, 6), (2, 3), (9, 4)):
        size = (16 * rows, 16 * columns)
        other = create_model(VIT, 3, **SMALL | {"img_size": size})
        again, report = load_pretrained(other, told, verbose=False)
        expected = resize_positions(table, (rows, columns), prefix=1, old_grid=(4, 9))
        np.testing.assert_array_equal(again["params"]["pos_embed"], expected)
        assert (len(report.resized), report.notes) == (1, ())
        given, _ = load_pretrained(other, untold, grid=(4, 9), verbose=False)
        chex.assert_trees_all_equal(again, given)


def test_a_grid_that_no_export_can_have(tmp_path):
    model, variables = made(VIT, (64, 144), **SMALL)
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"expected \(rows, columns\)"):
        export_weights(variables, VIT, path, grid=(0, 36))
    state = reference_arrays(variables, VIT)
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    for text in ("4", "0x9", "4x9x1", "9" * 99 + "x1", "axb"):
        save_file(state, path, {"vit_jax_tricks.grid": text})
        again, _ = load_pretrained(model, path, verbose=False)
        chex.assert_trees_all_equal(again, variables)


class TestFilesOfOthers:
    """Nothing says their grid: as many rows stay, others are of a square."""

    @pytest.fixture
    def state(self):
        return weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)

    @pytest.fixture
    def path(self, state, tmp_path):
        save_file(state, tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"

    def load(self, path, size, **options):
        model = create_model(VIT, 5, **weight_files.SMALL | {"img_size": size})
        variables, report = load_pretrained(model, path, verbose=False, **options)
        return np.asarray(variables["params"]["pos_embed"]), report

    def test_as_many_rows(self, path, state):
        table, report = self.load(path, (8, 32))
        np.testing.assert_array_equal(table, state["pos_embed"])
        assert (
            "pos_embed was taken to be of the model's grid of 2 x 8" in report.notes[0]
        )
        assert "give grid=(rows, columns)" in report.notes[0]
        table, report = self.load(path, (8, 32), grid=(2, 8))
        np.testing.assert_array_equal(table, state["pos_embed"])
        assert (report.resized, report.notes) == ((), ())

    def test_a_grid_that_is_given(self, path, state):
        for size, old in (((8, 32), (4, 4)), ((16, 16), (2, 8)), ((24, 12), (8, 2))):
            table, report = self.load(path, size, grid=old)
            grid = size[0] // 4, size[1] // 4
            expected = resize_positions(
                state["pos_embed"], grid, prefix=1, old_grid=old
            )
            np.testing.assert_array_equal(table, expected)
            assert (len(report.resized), report.notes) == (1, ())

    def test_other_rows_are_of_a_square(self, path, state):
        table, report = self.load(path, (8, 12))
        expected = resize_positions(state["pos_embed"], (2, 3), prefix=1)
        np.testing.assert_array_equal(table, expected)
        assert "pos_embed was taken to be of a square grid" in report.notes[0]
        assert self.load(path, (24, 24))[1].notes == ()
        assert self.load(path, (16, 16))[1].notes == ()

    def test_rows_of_no_square_need_a_grid(self, tmp_path, state):
        state["pos_embed"] = state["pos_embed"][:, :13]  # 3 x 4
        path = tmp_path / "w.safetensors"
        save_file(state, path)
        with pytest.raises(UserError, match=r"give the file's grid=\(rows, columns\)"):
            self.load(path, (16, 16))
        table, report = self.load(path, (12, 16))
        np.testing.assert_array_equal(table, state["pos_embed"])
        assert report.notes == ()

    @pytest.mark.parametrize("grid", [(3, 3), (0, 16), (-4, -4)])
    def test_grids_that_cannot_be(self, path, grid):
        with pytest.raises(UserError, match=r"a grid of 3 rows|expected \(rows, col"):
            self.load(path, (8, 32), grid=grid)


@pytest.mark.parametrize("grid", [(4,), 4, (4.0, 4.0), "14"])
def test_what_is_no_grid(grid):
    with pytest.raises(UserError, match=r"expected \(rows, columns\)"):
        checked_grid(grid)


WINDOWS = ("swin_tiny_patch4_window7_224", "coatnet_0_224")


@pytest.mark.parametrize(
    "name", [WINDOWS[0], pytest.param(WINDOWS[1], marks=pytest.mark.slow)]
)
def test_a_workdir_says_its_windows(name, tmp_path):
    """Windows of 2 x 8 in models of 8 x 2 and 4 x 4: as many rows say nothing."""
    size, fields = FAMILIES[name]
    _, variables = made(name, size, **fields)
    made_run.save(tmp_path, variables)
    text = {"name": name, "fields": {"img_size": size, "num_classes": 3, **fields}}
    (tmp_path / "model.json").write_text(json.dumps(text))
    tables = {
        path: array
        for path, array in flatten(variables).items()
        if path.endswith("relative_position_bias_table") and len(array) == 3 * 15
    }
    assert tables
    for window in ((8, 2), (4, 4)):
        other = {"window_size": window} if "window_size" in fields else {}
        height, width = size[::-1] if window == (8, 2) else (64, 64)
        again, report = load_pretrained(
            create_model(name, 3, img_size=(height, width), **fields | other),
            tmp_path,
            verbose=False,
        )
        found = flatten(again)
        for path, array in tables.items():
            table = resize_relative_bias(np.asarray(array), window, old_window=(2, 8))
            np.testing.assert_array_equal(found[path], table)
            assert any(line.startswith(path) for line in report.resized)

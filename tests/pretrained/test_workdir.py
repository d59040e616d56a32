"""A run's workdir as a source: its newest intact checkpoint, never changed."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
import runs
import weight_files
from model_goldens import jit_once

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import load_pretrained, relatives_rules
from vit_jax_tricks.pretrained.sources import classes_of, read_source
from vit_jax_tricks.state import create
from vit_jax_tricks.storage.checkpoint import Checkpointer


VIT = "vit_tiny_patch16_224"
NAMES = relatives_rules.VIT


def digits(classes=10, **overrides):
    own = {"img_size": 8, "patch_size": 2, "in_chans": 1, "global_pool": "avg"}
    return create_model(VIT, classes, **weight_files.SMALL | own | overrides)


def saved(workdir, *, ema):
    """A workdir with checkpoints at steps 10 and 12, as a run leaves them."""
    model = digits()
    images = jnp.zeros((1, 8, 8, 1))
    variables = jit_once(model.init)(jax.random.key(0), images)
    state = create(
        variables, optimizer=optax.sgd(0.1, 0.9), key=jax.random.key(1), ema=ema
    )
    if ema:
        state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    checkpointer = Checkpointer(workdir / "checkpoints", keep=2, say=print)
    for step in (10, 12):
        checkpointer.save(state.replace(step=jnp.asarray(step)), {})
    checkpointer.close()
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), ema=True)


def test_the_newest_checkpoint_and_its_averages(run):
    loaded = {}
    for ema in (None, True, False):
        loaded[ema], report = load_pretrained(digits(), run, ema=ema, verbose=False)
        averaged = "" if ema is False else ", averaged"
        assert report.source == f"{run}, step 12{averaged}"
        assert (report.reset, report.resized, report.unused) == ((), (), ())
    chex.assert_trees_all_equal(loaded[None], loaded[True])
    crcs = runs.leaves(run, 12)
    for ema, prefix in ((True, "ema/"), (False, "")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(loaded[ema]):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            assert crcs[prefix + name][1] == runs.crc(leaf)


def test_stacked_blocks_and_other_classes(run):
    stacked = digits(3, scan=True)
    variables, report = load_pretrained(stacked, run, verbose=False)
    kernel = variables["params"]["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.shape == (1, 16, 3, 2, 8)
    assert set(report.reset) == {"params/head/kernel", "params/head/bias"}
    assert "params/head/bias (10,), the model has (3,)" in report.unused


def test_other_sizes_are_fitted(run):
    larger = digits(img_size=24, patch_size=4, in_chans=3)
    _, report = load_pretrained(larger, run, verbose=False)
    assert set(report.resized) == {
        "params/pos_embed (1, 17, 16) -> (1, 37, 16)",
        "params/patch_embed/proj/kernel (16, 1, 2, 2) -> (16, 3, 4, 4)",
    }


def test_how_many_classes(run):
    assert classes_of(read_source(run, NAMES), NAMES) == 10


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path, capsys):
    copy = runs.copied(run, tmp_path)
    newest = copy / "checkpoints" / "12"
    (newest / "state" / "_METADATA").write_text("{}")
    before = runs.snapshot(copy)
    _, report = load_pretrained(digits(), copy)
    assert "step 10" in report.source
    assert "checkpoint 12 is damaged" in capsys.readouterr().out
    assert runs.snapshot(copy) == before
    for step in (copy / "checkpoints").iterdir():
        (step / "state" / "_METADATA").write_text("{}")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        load_pretrained(digits(), copy)


def test_folders_that_are_no_workdirs(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        load_pretrained(digits(), tmp_path)


def test_no_averages(tmp_path):
    saved(tmp_path, ema=False)
    _, report = load_pretrained(digits(), tmp_path, verbose=False)
    assert "averaged" not in report.source
    with pytest.raises(UserError, match="keeps no averages"):
        load_pretrained(digits(), tmp_path, ema=True)

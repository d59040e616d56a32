"""Every config file: documented, complete, and sound from pixels to the update."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vit_jax_tricks import config, data
from vit_jax_tricks.data.views import View
from vit_jax_tricks.sharding import make_mesh
from vit_jax_tricks.tasks import supervised
from vit_jax_tricks.train import experiment


FILES = sorted(p for p in Path("configs").glob("*.py") if not p.stem.endswith("common"))
VARIANTS = [
    "configs/deit_s.py:recipe=source",
    "configs/deit_s.py:data=digit_scenes,epochs=5",
    "configs/deit_s_tricks.py:data=digit_scenes,epochs=5",
    "configs/coatnet_0.py:data=digit_scenes,epochs=5",
    "configs/convit_s.py:data=digit_scenes,epochs=5",
    "configs/digit_scenes.py:size=32",
    "configs/lvvit_s.py:data=digit_scenes,epochs=5",
    "configs/swin_t.py:data=digit_scenes,epochs=5",
    "configs/t2t_vit_14.py:data=digit_scenes,epochs=5",
]
# The others' whole steps are traced in the slow suite.
QUICK = {"configs/digits.py", "configs/deit_s.py", VARIANTS[2]}
SPECS = [
    pytest.param(spec, marks=[] if spec in QUICK else [pytest.mark.slow])
    for spec in (*map(str, FILES), *VARIANTS)
]
SHAPES = {
    "digits": ((8, 8, 1), 10, 1437),
    "digit_scenes/32": ((32, 32, 3), 10, 8_000),
    "digit_scenes/64": ((64, 64, 3), 10, 20_000),
    "digit_scenes/224": ((224, 224, 3), 10, 20_000),
    "tfds:imagenet2012": ((224, 224, 3), 1000, 1_281_167),
}


class NoExamples:
    """A reader of a data set that is on no disk."""

    def train_batches(self, *args, **options):
        return iter(())

    def row_batches(self, *args):
        return iter(())

    def labels(self, split):
        return ()


@pytest.fixture
def fake_data(monkeypatch):
    """Data of the right shape without a byte on disk."""

    def build(name, **unused):
        shape, classes, train = SHAPES[name]
        return data.Data(
            name=name,
            class_names=[str(k) for k in range(classes)],
            image_shape=shape,
            num_train=train,
            num_test=100,
            in_memory=True,
            view=View(shape[:2], shape[2], "whole", 0.875, "area"),
            train=[],
            test=[],
            _reader=NoExamples(),
        )

    monkeypatch.setattr(supervised.data, "build", build)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_documented(path):
    text = path.read_text().split('"""')[1]
    for field in ("Paper:", "Command:", "Expected:", "Wall time:"):
        assert field in text, f"{path} says nothing under {field}"
    assert f"--config={path}" in text
    assert re.search(r"arXiv:\d{4}\.\d{5}", text)
    assert "TODO" not in text


@pytest.mark.parametrize("spec", SPECS)
def test_whole_step_by_shape(spec, fake_data):
    x = experiment.build(config.load(spec), devices=jax.devices()[:1])
    state = x.state_shape()
    after, metrics = jax.eval_shape(x.train_step, state, x.batch_shape(train=True))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (before.shape, before.dtype) == (now.shape, now.dtype)
    assert {v.shape for v in metrics.values()} == {()}
    sums = jax.eval_shape(x.task.evaluate, state.variables, x.batch_shape(train=False))
    assert set(sums) == {"correct", "correct5", "loss", "count"}
    # What the loop reads, and nothing else is left.
    assert x.config.log.steps
    assert x.config.log.tensorboard is not None
    _ = x.config.checkpoint.steps, x.config.checkpoint.keep
    _ = x.config.resume, x.config.name
    x.config.assert_all_read()


def test_deit_recipe_is_the_published_one(fake_data):
    official = experiment.build(config.load("configs/deit_s.py"))
    steps = 1_281_167 / 1024
    assert official.total_steps == round(300 * steps)
    assert official.peak_lr == pytest.approx(1e-3)
    # The first two epochs run at the warm-up's start, as in the reference's loop.
    assert float(official.lr(math.floor(2 * steps))) == pytest.approx(1e-6)
    assert float(official.lr(math.ceil(2 * steps))) == pytest.approx(2.008e-4, rel=1e-4)
    source = experiment.build(config.load("configs/deit_s.py:recipe=source"))
    assert source.peak_lr == pytest.approx(5e-4)
    assert float(source.lr(round(10 * steps))) == pytest.approx(5e-4, rel=1e-5)
    assert float(source.lr(round(300 * steps))) == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "batch", "lr", "warmup"),
    [("t2t_vit_14", 512, 5e-4, 10), ("lvvit_s", 1024, 1.6e-3, 5)],
)
def test_recipes_of_300_and_10_epochs_are_the_published_ones(
    name, batch, lr, warmup, fake_data
):
    x = experiment.build(config.load(f"configs/{name}.py"))
    steps = 1_281_167 / batch
    assert x.total_steps == round(310 * steps)
    assert x.peak_lr == pytest.approx(lr)
    assert float(x.lr(0)) == pytest.approx(1e-6)
    assert float(x.lr(math.ceil(steps))) == pytest.approx(
        1e-6 + (lr - 1e-6) / warmup, rel=1e-4
    )
    assert float(x.lr(round(150 * steps))) == pytest.approx((lr + 1e-5) / 2, rel=1e-3)
    assert float(x.lr(round(300 * steps))) == pytest.approx(1e-5, rel=1e-4)
    assert x.task.model.drop_path_rate == 0.1


def test_convit_recipe_is_deit_s_without_a_moving_average():
    convit = config.load("configs/convit_s.py").to_dict()
    deit = config.load("configs/deit_s.py").to_dict()
    assert convit["ema"].pop("decay") is None
    assert deit["ema"].pop("decay") == 0.99996
    assert convit["model"].pop("name") == "convit_small"
    assert (convit.pop("name"), deit.pop("name")) == ("convit_s", "deit_s")
    assert deit["model"].pop("name") == "deit_small_patch16_224"
    assert convit == deit


@pytest.mark.parametrize(("name", "drop_path"), [("t", 0.2), ("s", 0.3), ("b", 0.5)])
def test_swin_recipe_is_the_published_one(name, drop_path, fake_data):
    x = experiment.build(config.load(f"configs/swin_{name}.py"))
    steps = 1_281_167 / 1024
    assert x.task.model.drop_path_rate == drop_path
    assert x.total_steps == round(300 * steps)
    assert not x.has_ema
    # Every rate is for a batch of 512; the cosine begins at the end of warm-up.
    assert float(x.lr(0)) == pytest.approx(1e-6)
    assert float(x.lr(round(20 * steps))) == pytest.approx(1e-3)
    past = round(160 * steps) - round(20 * steps)
    cosine = math.cos(math.pi * past / (round(300 * steps) - round(20 * steps)))
    middle = 1e-5 + (1e-3 - 1e-5) * (1 + cosine) / 2
    assert float(x.lr(round(160 * steps))) == pytest.approx(middle)
    assert float(x.lr(round(300 * steps))) == pytest.approx(1e-5, rel=1e-4)


def test_bfloat16_keeps_parameters_and_loss_in_float32(fake_data):
    spec = config.load("configs/digits.py", [("dtype", "bfloat16")])
    x = experiment.build(spec, devices=jax.devices()[:1])
    assert x.task.model.dtype == jnp.bfloat16
    state, metrics = jax.eval_shape(
        x.train_step, x.state_shape(), x.batch_shape(train=True)
    )
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32


def test_same_config_on_another_mesh(fake_data):
    overrides = [("mesh.data", "2"), ("mesh.fsdp", "2"), ("mesh.tensor", "2")]
    x = experiment.build(config.load("configs/digit_scenes.py", overrides))
    assert dict(x.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    specs = {
        path: tuple(leaf.sharding.spec)
        for path, leaf in (
            (jax.tree_util.keystr(p, simple=True, separator="/"), v)
            for p, v in jax.tree_util.tree_leaves_with_path(x.state_shape().params)
        )
    }
    assert specs["blocks_0/attn/qkv/kernel"] == (None, None, "tensor", None)
    assert specs["blocks_0/mlp/fc1/kernel"] == ("fsdp", "tensor")
    assert specs["blocks_0/mlp/fc2/kernel"] == ("tensor", "fsdp")
    assert all(s is None for s in specs["blocks_0/norm1/scale"])


def test_experiments_are_frozen(fake_data):
    x = experiment.build(config.load("configs/digits.py"), devices=jax.devices()[:1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        x.seed = 1
    assert make_mesh(devices=jax.devices()[:1]).size == 1

"""A task that the package does not know: two towers, a contrastive loss, no labels."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import shared_programs
from flax import linen as nn

from configs import common
from vit_jax_tricks import config, data, tasks
from vit_jax_tricks import evaluate as command
from vit_jax_tricks.augment.pixels import to_float
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import evaluate, load
from vit_jax_tricks.stop import Stop, Stopped
from vit_jax_tricks.train import experiment, loop


# The task. A caption is the label in binary digits, as token ids; the step sees only
# pictures and captions.


class Towers(nn.Module):
    """The scaled products of pictures and captions, as unit vectors."""

    width: int

    @nn.compact
    def __call__(self, images, tokens):
        words = nn.Embed(8, self.width)(tokens)
        ends = [nn.Dense(self.width)(x.reshape(len(x), -1)) for x in (images, words)]
        image, caption = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in ends)
        return (
            jnp.exp(self.param("scale", nn.initializers.ones, ())) * image @ caption.T
        )


def captioned(batches):
    for batch in batches:
        digits = (batch.pop("label")[:, None] >> np.arange(4)) & 1
        yield batch | {"tokens": (digits + 2 * np.arange(4)).astype(np.int32)}


def build(config, mesh):
    source, model = data.build(**config.data), Towers(config.toy.width)
    pair = {"image": (source.image_shape, jnp.uint8), "tokens": ((4,), jnp.int32)}
    pair["index"] = (), jnp.int32

    def prepare(key, batch):
        noise = 0.05 * jax.random.normal(key("noise"), batch["image"].shape)
        return {"image": to_float(batch["image"]) + noise, "tokens": batch["tokens"]}

    def pairs(params, images, tokens):
        logits = model.apply({"params": params}, images, tokens)
        each = optax.softmax_cross_entropy_with_integer_labels
        place = jnp.arange(len(logits))
        return logits, (each(logits, place) + each(logits.T, place)) / 2

    def forward_loss(params, batch_stats, inputs, frozen, *, key, step):
        loss = pairs(params, inputs["image"], inputs["tokens"])[1].mean()
        return loss, ({"loss": loss}, batch_stats)

    def evaluate(found, batch):
        tokens, mask = batch["tokens"], batch["mask"]
        logits, losses = pairs(found["params"], to_float(batch["image"]), tokens)
        hits = jnp.all(tokens[jnp.argmax(logits, -1)] == tokens, -1)
        sums = {"recall": hits.astype(mask.dtype) @ mask, "loss": losses @ mask}
        return sums | {"count": mask.sum()}

    def eval_batches(split, *, batch_size, sharding, progress):
        for batch in captioned(source.test_batches(batch_size, split)):
            progress(0, 1)
            yield jax.device_put(batch, sharding)

    start = jnp.zeros((1, *source.image_shape)), jnp.zeros((1, 4), int)
    return tasks.Task(
        train_batch=pair,
        eval_batch=pair | {"mask": ((), jnp.float32)},
        init=lambda key: model.init(key, *start),
        prepare=prepare,
        forward_loss=forward_loss,
        evaluate=evaluate,
        means=lambda sums: {k: sums[k] / sums["count"] for k in ("recall", "loss")},
        num_train=source.num_train,
        train_batches=lambda b, **when: captioned(source.train_batches(b, **when)),
        eval_batches=eval_batches,
        title="two towers",
        score="recall",
        undivided="a contrastive loss needs all pairs of a batch",
        record=lambda: tasks.Record(keys=("toy",)),
    )


def config_of(**changes):
    c = common.get_config()
    with c.unlocked():
        for section in (
            "model",
            "augment",
            "loss",
            "teacher",
            "quant",
            "init",
            "dtype",
        ):
            del c[section]
        c.toy = {"width": 8}
        c.update(
            {"name": "toy", "task": "toy", "batch_size": 64, "steps": 12} | changes
        )
    c.update({"log": {"steps": 4, "tensorboard": False}, "eval": {"epochs": 0.4}})
    c.update({"ema": {"decay": 0.9}, "schedule": {"warmup_epochs": 0.0, "lr": 0.02}})
    c.update({"optimizer": {"name": "lion", "weight_decay": 0.0}})
    return config.Section(c.to_dict())


pytestmark = pytest.mark.usefixtures("home", "sharing")


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.TASKS, "toy", build)
        yield


@pytest.fixture(scope="module")
def whole(home, programs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toy")
    with shared_programs.shared(programs):
        return workdir, loop.run(config_of(), workdir)


def test_the_loop_trains_and_keeps_the_best(whole):
    workdir, result = whole
    lines = runs.metrics(workdir)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    assert result["test/recall"] > 0.2 > 1 / 10  # of ten captions
    assert {"test/recall_ema", "test/loss", "test/loss_ema"} <= result.keys()
    summary = (workdir / "report" / "summary.md").read_text()
    assert "best test recall" in summary
    assert "two towers" in summary
    assert (workdir / "report" / "recall.png").exists()
    assert not (workdir / "model.json").exists()


def test_stopped_and_resumed_it_ends_alike(whole, tmp_path, monkeypatch):
    original, stop = loop.Loop._drain, Stop()

    def drain(self, lag, **options):
        original(self, lag, **options)
        if lag and self.pending[-1][0] == 7:
            stop.requested = 143

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_drain", drain)
        with pytest.raises(Stopped):
            loop.run(config_of(), tmp_path, stop)
    assert (tmp_path / "checkpoints" / "7").is_dir()
    result = loop.run(config_of(), tmp_path)
    workdir, expected = whole
    assert result == expected
    assert runs.leaves(tmp_path, 12) == runs.leaves(workdir, 12)
    assert runs.metrics(tmp_path) == runs.metrics(workdir)


def test_a_finished_run_is_measured_alike(whole, capsys):
    workdir, result = whole
    found = evaluate(workdir, batch_size=256)
    assert found.pop("count") == 359
    assert {f"test/{name}": value for name, value in found.items()} == pytest.approx(
        result, rel=1e-5
    )
    status, *shown = runs.call(capsys, command.main, f"--workdir={workdir}", "--json")
    assert status == 0, shown
    assert json.loads(shown[0])["recall"] == pytest.approx(result["test/recall"])
    given = f"--workdir={workdir}", "--model.depth=2"
    runs.refused(runs.call(capsys, command.main, *given), "the task toy")
    assert loop.run(config_of(), workdir) == result
    with pytest.raises(UserError, match=r"the task toy of .* brings its own data"):
        evaluate(workdir, "digits")
    with pytest.raises(UserError, match="a run of the task toy"):
        load(workdir)


def test_a_config_names_its_task(whole):
    with pytest.raises(UserError, match=r'config\.task="toi": unknown'):
        experiment.build(config_of(task="toi"))
    x, refused = experiment.build(config_of()), "accumulate=2: a contrastive loss needs"
    with pytest.raises(UserError, match=refused):
        experiment.build(config_of(accumulate=2))
    step = dataclasses.replace(x, accumulate=2).train_step
    with pytest.raises(UserError, match=refused):
        jax.eval_shape(step, x.state_shape(), x.batch_shape(train=True))
    with pytest.raises(UserError, match=r"config\.toy\.width was 8, now 16"):
        loop.run(config_of(toy={"width": 16}), whole[0])


@pytest.mark.slow
def test_eight_devices_equal_one():
    """The pairs are those of the whole batch, wherever its examples lie."""
    losses = []
    for devices in (1, 8):
        x = experiment.build(config_of(), devices=jax.devices()[:devices])
        with contextlib.closing(x.train_batches()) as batches:
            batch = x.put(next(batches))
        _, metrics = x.compile_train_step()(x.compile_init(), batch, x.place_frozen())
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

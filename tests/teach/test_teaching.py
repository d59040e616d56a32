"""`config.teacher`: models in the step and label packs as sources of targets."""

import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from vit_jax_tricks import config, relabel
from vit_jax_tricks.augment.geometry import identity_geometry
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.objectives import targets
from vit_jax_tricks.objectives.targets import as_targets, crop_boxes
from vit_jax_tricks.sharding import make_mesh
from vit_jax_tricks.teach import teachers
from vit_jax_tricks.train import experiment


pytestmark = pytest.mark.usefixtures("home")
SOFT = (
    "--config.loss.distillation.name=soft",
    "--config.loss.distillation.tau=3.0",
    "--config.loss.classification.dist_weight=0.0",
)
DENSE = (
    "--config.model.p_emb=1",
    "--config.model.patch_size=2",
    "--config.schedule.cooldown_epochs=0.0",
    "--config.data.crop_pct=0.875",
    "--config.data.resize=area",
    "--config.loss.token_labels.name=kl",
    "--config.loss.classification.weight=0.0",
)


@pytest.fixture(scope="module")
def teacher(home, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("teacher")
    runs.train("--config.model.global_pool=avg", workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def pack(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "pack"
    args = [f"--teacher={teacher}", "--data=digits", f"--out={out}", "--top=10"]
    assert relabel.main(args) == 0
    return out


def build(*args: str, devices=None) -> experiment.Experiment:
    """A tiny run on digits, of LV-ViT where the loss is that of DENSE."""
    file = "lvvit_s.py:data=digits" if args[:1] == DENSE[:1] else "digits.py"
    pairs = [a.removeprefix("--config.").split("=", 1) for a in (*runs.TINY, *args)]
    loaded = config.load(f"configs/{file}", map(tuple, pairs))
    return experiment.build(loaded, devices=devices)


stored_labels = jax.jit(
    targets.stored_labels, static_argnames=("num_classes", "grid", "smoothing")
)


def first_step(x: experiment.Experiment):
    with x.train_batches() as batches:
        batch = x.put(next(batches))
    return x.compile_train_step()(x.compile_init(), batch, x.place_frozen())


def test_a_teacher_sees_images_in_its_own_way(teacher):
    (loaded,) = build(
        *SOFT, f"--config.teacher.sources={teacher}"
    ).task.teaching.teachers
    spec, model = loaded.trained.spec, loaded.trained.model
    pixels = np.random.default_rng(0).random((4, 16, 16, 1), np.float32)
    mean, std = (0.3,), (0.7,)
    got = teachers.teach(
        [loaded.variables],
        jnp.asarray((pixels - 0.3) / 0.7),
        teachers=[loaded],
        needs=frozenset({"teacher_logits"}),
        mean=mean,
        std=std,
        grid=None,
    )["teacher_logits"]
    small = jax.image.resize(jnp.asarray(pixels), (4, 8, 8, 1), "linear")
    own = (small - spec.mean[0]) / spec.std[0]
    want, _ = model.apply(loaded.variables, own, train=False)
    np.testing.assert_allclose(got[0], want, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_two_teachers_are_the_mean_of_their_losses(teacher):
    one = build(*SOFT, f"--config.teacher.sources={teacher}")
    both = build(*SOFT, f"--config.teacher.sources={teacher},{teacher}")
    (state, metrics), (same, others) = first_step(one), first_step(both)
    assert metrics["loss_distillation"] > 0
    assert metrics["loss_distillation"] == pytest.approx(
        float(others["loss_distillation"]), rel=1e-6
    )
    total = metrics["loss_classification"] + metrics["loss_distillation"]
    assert metrics["loss"] == pytest.approx(float(total), rel=1e-6)
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(same.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["teacher", "pack"])
def test_token_labels_of_every_kind_on_any_mesh(teacher, pack, how):
    given = {"teacher": f"sources={teacher}", "pack": f"pack={pack}"}[how]
    args = (*DENSE, f"--config.teacher.{given}", "--config.augment.cutmix=1.0")
    state, metrics = first_step(build(*args))
    assert set(metrics) >= {"loss_classification", "loss_token_labels"}
    assert np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 0
    one, alone = first_step(build(*args, devices=jax.devices()[:1]))
    assert metrics["loss"] == pytest.approx(float(alone["loss"]), rel=1e-5)
    micro, parts = first_step(build(*args, "--config.accumulate=2"))
    assert parts["loss_token_labels"] == pytest.approx(
        float(metrics["loss_token_labels"]), rel=0.2
    )  # MixToken draws once a micro-batch
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(one.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    assert jax.tree.structure(micro.params) == jax.tree.structure(one.params)


def test_a_pack_gives_what_the_teacher_said(teacher, pack):
    """Images as they are: the pack's targets are those of the teacher in the step."""
    plain = "--config.augment.mixup=0.0"
    live = build(*SOFT, plain, f"--config.teacher.sources={teacher}")
    x = build(*SOFT, plain, f"--config.teacher.pack={pack}")
    assert not x.task.teaching.teachers
    with x.train_batches() as batches:
        batch = next(batches)
    augment = x.task.prepare.keywords["augment"]
    _, geometry = augment(jax.random.key(0), batch["image"], batch["index"])
    stored = x.task.prepare.keywords["stored"](geometry, batch)
    got = as_targets(stored)["teacher_logits"]
    mean, std = x.task.spec.mean[0], x.task.spec.std[0]
    images = jnp.asarray((batch["image"] / 255 - mean) / std, jnp.float32)
    frozen = live.place_frozen()
    teach = live.task.forward_loss.keywords["teach"]
    want = teach(frozen, images)["teacher_logits"][0]
    np.testing.assert_allclose(got, jax.nn.log_softmax(want), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["teacher", "pack"])
def test_resumed_equals_uninterrupted(teacher, pack, how, tmp_path):
    given = {"teacher": f"sources={teacher}", "pack": f"pack={pack}"}[how]
    args = (*SOFT, f"--config.teacher.{given}")
    runs.train(*args, workdir=tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        original, calls = experiment.Experiment.put, []

        def put(self, batch):
            calls.append(1)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, batch)

        patch.setattr(experiment.Experiment, "put", put)
        status, _, err = runs.command(*args, workdir=tmp_path / "cut")
        assert (status, err) == (143, "")
    runs.train(*args, workdir=tmp_path / "cut")
    assert runs.leaves(tmp_path / "cut", 12) == runs.leaves(tmp_path / "whole", 12)
    assert runs.metrics(tmp_path / "cut") == runs.metrics(tmp_path / "whole")


@pytest.mark.slow
def test_another_teacher_in_the_same_place_stops_a_resumed_run(teacher, tmp_path):
    source = runs.copied(teacher, tmp_path)
    args = (*SOFT, f"--config.teacher.sources={source}")
    runs.train(*args, workdir=tmp_path / "run")
    shutil.rmtree(source)
    runs.train("--config.seed=1", "--config.model.global_pool=avg", workdir=source)
    before = runs.snapshot(tmp_path / "run")
    status, _, err = runs.command(*args, workdir=tmp_path / "run")
    assert status == 1
    assert "other teacher weights" in err
    assert err.count("\n") == 1
    assert runs.snapshot(tmp_path / "run") == before


def test_stored_labels_follow_crop_and_flip():
    """A map whose left half is class 1 and right half class 2."""
    scores = np.full((2, 8, 8, 1), 20.0, np.float32)
    classes = np.ones((2, 8, 8, 1), np.int32)
    classes[:, :, 4:] = 2
    batch = {
        "token_scores": scores,
        "token_classes": classes,
        "class_scores": np.full((2, 1), 20.0, np.float32),
        "class_classes": np.full((2, 1), 3, np.int32),
        "box": np.array([[0, 0, 1, 1], [0, 0, 1, 0.5]], np.float32),
    }
    moves = identity_geometry(2, (16, 16)).replace(flip=jnp.array([True, False]))
    got = stored_labels(batch, moves, num_classes=4, grid=(4, 4))
    whole, left = jnp.argmax(got["token_labels"], -1)
    np.testing.assert_array_equal(whole, [[2, 2, 1, 1]] * 4)
    np.testing.assert_array_equal(left, [[1] * 4] * 4)
    np.testing.assert_allclose(got["token_labels"].sum(-1), 1, rtol=1e-6)
    assert int(jnp.argmax(got["class_labels"][1])) == 1
    assert jnp.argmax(got["teacher_labels"], -1).tolist() == [3, 3]
    half = moves.replace(
        flip=jnp.zeros(2, bool), box=jnp.array([[0, 8, 16, 8], [0, 0, 16, 16]])
    )
    np.testing.assert_allclose(
        crop_boxes(batch["box"], half), [[0, 0.5, 1, 0.5], [0, 0, 1, 0.5]], atol=1e-7
    )
    right = stored_labels(batch, half, num_classes=4, grid=(4, 4))["token_labels"][0]
    np.testing.assert_array_equal(jnp.argmax(right, -1), np.full((4, 4), 2))
    shifted = moves.replace(affine=jnp.array([[1.0, 0, -100, 0, 1, 0]] * 2))
    out = stored_labels(batch, shifted, num_classes=4, grid=(4, 4), smoothing=0.1)
    np.testing.assert_allclose(out["token_labels"], (1 + 0.1 / 4) / 4, rtol=1e-6)


def test_refused(teacher, pack, tmp_path):
    def refused(part: str, *args: str) -> None:
        with pytest.raises(UserError, match=part) as caught:
            build(*args)
        assert "\n" not in str(caught.value)

    given = f"--config.teacher.sources={teacher}"
    stored = f"--config.teacher.pack={pack}"
    refused("distillation needs a teacher: give", *SOFT)
    refused("nothing in config.loss learns from a teacher", given)
    refused("nothing in config.loss learns from a teacher", stored)
    refused("does not exist", *SOFT, f"--config.teacher.sources={tmp_path / 'no'}")
    refused("does not exist", *SOFT, f"--config.teacher.pack={tmp_path / 'no'}")
    refused("leave it out", *SOFT, given, "--config.teacher.smoothing=0.1")
    refused("leave it out", *SOFT, given, "--config.teacher.as_released=True")
    refused("below 1|< 1", *SOFT, given, "--config.teacher.smoothing=1.0")
    refused("the pack gives all", *DENSE, given, stored)
    refused("with a dense head", *DENSE[4:], given)
    tokens = "--config.loss.token_distillation.name=mse"
    refused("takes one teacher", tokens, f"{given},{teacher}")
    refused("token_distillation needs a teacher", tokens, stored)
    refused("no such term", "--config.loss.distilation.name=soft")
    refused("no such key", *SOFT, "--config.loss.distillation.tua=3.0", given)


def test_no_collectives_for_stored_labels(pack):
    """Each device makes the labels of its own images."""
    x = build(*SOFT, f"--config.teacher.pack={pack}")
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        parts = x.task.prepare.keywords
        augment, stored = parts["augment"], parts["stored"]

        def labels(key, batch):
            _, geometry = augment(key, batch["image"], batch["index"])
            return stored(geometry, batch)

        shape = x.batch_shape(train=True)
        text = jax.jit(labels).lower(jax.random.key(0), shape).compile()
    assert "all-" not in text.as_text()

"""`config.init` and `config.teacher`: weights, teachers and packs that are on disk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_tricks import augment, export_weights, relabel
from vit_jax_tricks.data.label_pack.code import decode
from vit_jax_tricks.objectives.targets import stored_labels
from vit_jax_tricks.train import loop


pytestmark = pytest.mark.usefixtures("home")
DENSE = {
    "name": "lvvit_s",
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "p_emb": 1,
    "return_dense": True,
    "mix_token": False,
}
SMOOTHING, STEP = 0.2, 2


def test_the_first_weights_are_those_of_the_file(folder, tmp_path):
    """The student's own name, so that no weight is fitted; the averages start there."""
    file = tmp_path / "weights.safetensors"
    plain = reference.build(folder)
    state = reference.lively(plain)
    export_weights(state.variables, reference.SMALL["name"], file)
    found = reference.build(folder, init=str(file), ema__decay=0.9).compile_init()
    for params in (found.params, found.ema["params"]):
        jax.tree.map(np.testing.assert_array_equal, params, state.params)


@pytest.fixture(scope="module")
def workdirs(folder, tmp_path_factory):
    """Two runs of a step, with dense heads and weights that tell places apart."""
    made = []
    for scale in np.float32([1, 2]):
        made.append(tmp_path_factory.mktemp("teacher"))
        file = made[-1].with_suffix(".safetensors")
        state = reference.lively(reference.build(folder, model=DENSE))
        weights = jax.tree.map(functools.partial(np.multiply, scale), state.variables)
        export_weights(weights, DENSE["name"], file)
        given = {"data.name": f"folder:{folder}", "model": DENSE, **reference.TINY}
        given |= {"init": str(file), "steps": 1, "schedule.lr": 1e-3}
        loop.run(reference.config_of(given | {"log.tensorboard": False}), made[-1])
    return made


@pytest.mark.slow
def test_teachers_that_are_named_are_asked(folder, workdirs):
    """Soft distillation by two teachers: the mean of tau^2 KL(teacher | student)."""
    x = reference.build(
        folder,
        model=DENSE,
        teacher__sources=tuple(map(str, workdirs)),
        loss__classification__dense_weight=0.0,
        loss__classification__dist_weight=0.0,
        loss__distillation__name="soft",
        loss__distillation__tau=2.0,
        loss__distillation__weight=0.7,
    )
    batch = reference.batch_of()
    state = reference.lively(x)
    params = jax.tree.map(np.asarray, state.params)
    frozen = x.place_frozen()
    _, metrics = x.compile_train_step()(state, x.put(batch), frozen)
    images = reference.normal(batch["image"])

    @functools.partial(jax.jit, static_argnums=1)
    def logits(variables, train):
        return x.task.model.apply(variables, images, train=train)[0]

    student = logits({"params": params}, True)
    losses = []
    for variables in frozen:
        p = jax.nn.log_softmax(logits(variables, False) / 2)
        q = jax.nn.log_softmax(student / 2)
        losses.append(4 * (jnp.exp(p) * (p - q)).sum(-1))
    assert np.abs(losses[0] - losses[1]).mean() > 1e-3
    hard = reference.cross_entropy(student, reference.one_hot(batch["label"]))
    want = hard + 0.7 * (losses[0] + losses[1]) / 2
    assert float(metrics["loss"]) == pytest.approx(float(want.mean()), rel=1e-5)


@pytest.fixture(scope="module")
def pack(folder, workdirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pack") / "pack"
    flags = [f"--teacher={workdirs[0]}", f"--data=folder:{folder}", f"--out={out}"]
    assert relabel.main([*flags, "--top=3"]) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("released", [False, True])
def test_a_pack_labels_the_step(released, folder, pack):
    """Labels follow their crops and flips, are smoothed, and mixed with the images."""
    x = reference.build(
        folder,
        model=DENSE,
        teacher__pack=str(pack),
        teacher__smoothing=SMOOTHING,
        teacher__as_released=released,
        loss__classification__weight=0.0,
        loss__token_labels__name="softmax",
        loss__token_labels__class_weight=0.6,
        loss__token_labels__dense_weight=0.4,
        augment__crop="random_resized",
        augment__crop_scale=(0.2, 0.5),
        augment__crop_ratio=(0.5, 0.7),
        augment__flip=True,
        augment__mixup=0.8,
    )
    with x.train_batches() as batches:
        batch = next(batches)
    state = reference.lively(x).replace(step=jnp.int32(STEP))
    params = jax.tree.map(np.asarray, state.params)
    _, metrics = x.compile_train_step()(state, x.put(batch), [])

    key, index = reference.stream(0, "augment", STEP), jnp.asarray(batch["index"])
    crop = reference.compiled(
        augment.random_resized_crop,
        size=(16, 16),
        scale=(0.2, 0.5),
        ratio=(0.5, 0.7),
        interpolation="bicubic",
    )
    whole = reference.to_float(batch["image"])
    images, moves = crop(reference.named(key, "box"), whole, index)
    flips = augment.random_flips(reference.named(key, "flip"), index)
    images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
    labels = stored_labels(
        batch | decode(batch),
        moves.replace(flip=flips),
        num_classes=3,
        grid=(2, 2),
        smoothing=SMOOTHING,
        as_released=released,
    )
    assert np.asarray(labels["token_labels"]).std(0).max() > 0.05
    mix = reference.compiled(augment.mixup_or_cutmix, mixup_alpha=0.8, cutmix_alpha=0.0)
    names = ("class_labels", "token_labels")
    images, labels = mix(
        reference.stream(0, "mix", STEP),
        reference.normal(images),
        {name: labels[name] for name in names},
    )
    apply = jax.jit(lambda x_: x.task.model.apply({"params": params}, x_, train=True))
    logits, aux = apply(images)
    image = reference.cross_entropy(logits, labels["class_labels"])
    dense = labels["token_labels"].reshape(16, 4, 3)
    tokens = reference.cross_entropy(aux["logits_aux"], dense).mean(1)
    want = float((0.6 * image + 0.4 * tokens).mean())
    assert float(metrics["loss"]) == pytest.approx(want, rel=1e-4)

"""`config.loss`, the compute type, and what an evaluation counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from configs import common
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.objectives.term import Readings
from vit_jax_tricks.runs import scores


pytestmark = pytest.mark.usefixtures("home")
DISTILLED = reference.SMALL | {"name": "deit_tiny_distilled_patch16_224"}
MIXED = dict(common.get_config().augment) | {"mixup": 0.8, "mix_mode": "elem"}


def sigmoid(z, y):
    """Summed over classes, with y smoothed by 0.1 and set to 1 above 0.3."""
    y = (0.9 * y + 0.1 / 3 > 0.3).astype(jnp.float32)
    return -(y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z)).sum(-1)


def smoothed_focal(z, y):
    """0.4 of the smoothed cross-entropy and 0.6 of a focal loss."""
    log_p = jax.nn.log_softmax(z)
    focal = -0.5 * (y * (1 - jnp.exp(log_p)) ** 1.5 * log_p).sum(-1)
    return 0.4 * reference.cross_entropy(z, 0.8 * y + 0.2 / 3) + 0.6 * focal


CASES = {
    "sigmoid": (
        sigmoid,
        0.3,
        dict(smoothing=0.1, target_threshold=0.3, sum_classes=True),
    ),
    "smoothed_focal": (
        smoothed_focal,
        0.8,
        dict(smoothing=0.2, focal_weight=0.6, alpha=0.5, gamma=1.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_step_s_loss_is_the_formula(name, folder):
    formula, share, options = CASES[name]
    keys = {"name": name, "weight": 1.5, "dist_weight": share, **options}
    x = reference.build(
        folder,
        model=DISTILLED,
        augment__mixup=0.8,
        augment__mix_mode="elem",
        **{f"loss__classification__{key}": value for key, value in keys.items()},
    )
    state, batch = reference.lively(x), reference.batch_of()
    loss = jax.jit(lambda state, batch: x.train_step(state, batch)[1]["loss"])
    images, labels = reference.prepared(MIXED, batch)
    logits, aux = heads(x.task.model)(state.params, images)
    first, second = formula(logits, labels), formula(aux["logits_dist"], labels)
    want = 1.5 * np.mean((1 - share) * first + share * second)
    assert float(loss(state, batch)) == pytest.approx(float(want), rel=1e-5)


@functools.cache
def heads(model):
    return jax.jit(lambda params, x: model.apply({"params": params}, x, train=True))


def test_terms_add_up_by_their_weights(folder):
    """The term keep_ratio of a model's own output, without a second model."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    keep = jnp.asarray(rng.integers(0, 2, (1, 4, 6)), jnp.float32)
    sections = {
        "classification": {"name": "softmax", "weight": 0.5},
        "keep_ratio": {"ratios": (0.25,), "weight": 3.0},
    }
    labels = jnp.eye(3)[jnp.array([0, 1, 2, 0])]
    readings = Readings(logits=logits, aux={"keep": keep}, labels=labels)
    total, terms = Objective(sections)(readings)
    want = 0.5 * terms["classification"] + 3 * terms["keep_ratio"]
    np.testing.assert_allclose(total, want, rtol=1e-6)
    assert (np.asarray(terms["keep_ratio"]) != 0).any()


@pytest.mark.slow
def test_r_drop_of_micro_batches(folder):
    """Each micro-batch has two passes with keys of its own."""
    x = reference.build(
        folder,
        model=reference.SMALL | {"drop_rate": 0.3},
        seed=5,
        accumulate=2,
        loss__r_drop__alpha=1.5,
        loss__r_drop__weight=0.4,
    )
    state, batch = reference.lively(x), reference.batch_of()
    images = reference.normal(batch["image"])
    labels = reference.one_hot(batch["label"])
    run = jax.jit(
        lambda params, images, key: x.task.model.apply(
            {"params": params}, images, train=True, rngs={"dropout": key}
        )[0]
    )
    ours, terms = [], []
    for i in range(2):
        first, second = (
            run(
                state.params,
                images[i::2],
                jax.random.fold_in(reference.stream(5, name, state.step), i),
            )
            for name in ("dropout", "loss.r_drop")
        )
        p, q = jax.nn.softmax(first), jax.nn.softmax(second)
        apart = ((p - q) * jnp.log(p / q)).sum(-1) / 2
        ours.append(reference.cross_entropy(first, labels[i::2]).mean())
        again = reference.cross_entropy(second, labels[i::2])
        terms.append((again + 1.5 * apart).mean())
        assert apart.max() > 1e-4
    found = jax.jit(lambda state, batch: x.train_step(state, batch)[1])(state, batch)
    assert float(found["loss_r_drop"]) == pytest.approx(float(np.mean(terms)), rel=1e-5)
    want = np.mean(ours) + 0.4 * np.mean(terms)
    assert float(found["loss"]) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", jnp.float32), ("float32", jnp.float32), ("bfloat16", jnp.bfloat16)],
)
def test_the_model_computes_in_the_type(name, dtype, folder):
    x = reference.build(folder, dtype=name)
    assert x.task.model.dtype == dtype
    leaves = jax.tree.leaves(x.state_shape().params)
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}


def test_the_mesh_has_the_axes_of_the_config(folder):
    x = reference.build(
        folder,
        devices=8,
        mesh__data=2,
        mesh__fsdp=-1,
        mesh__tensor=2,
        eval__batch_size=9,
    )
    assert dict(x.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert x.eval_batch_size == 12  # the next that four pieces divide
    specs = x.state_shape().params["blocks_0"]["mlp"]["fc1"]["kernel"].sharding.spec
    assert "tensor" in specs
    placed = x.put({"index": np.arange(16)})["index"]
    assert len({str(shard.index) for shard in placed.addressable_shards}) == 4


@pytest.mark.parametrize("size", [5, 64])
def test_evaluation_counts_each_example_once(size, folder):
    """Accuracy and loss by NumPy over the 21 pictures; the last batch is padded."""
    x = reference.build(folder, eval__batch_size=size)
    variables = jax.tree.map(np.asarray, reference.lively(x).variables)
    run, calls = jax.jit(x.task.evaluate), []

    def counted(variables, batch):
        calls.append(len(batch["label"]))
        return run(variables, batch)

    found = x.evaluate(counted, {"": variables, "_ema": variables})
    assert calls == [size] * (2 * -(-21 // size))
    images, labels = [], []
    for batch in x.task.data.test_batches(64):
        real = batch["mask"] > 0
        images.append(batch["image"][real])
        labels.append(batch["label"][real])
    labels = np.concatenate(labels)
    np.testing.assert_array_equal(np.bincount(labels), [7, 7, 7])
    logits, _ = heads_of_evaluation(x.task.model)(
        variables, reference.normal(np.concatenate(images))
    )
    loss = reference.cross_entropy(logits, reference.one_hot(labels)).mean()
    accuracy = (np.argmax(logits, -1) == labels).mean()
    assert 0 < accuracy < 1
    for suffix in ("", "_ema"):
        assert found[f"accuracy{suffix}"] == pytest.approx(accuracy)
        assert found[f"loss{suffix}"] == pytest.approx(float(loss), rel=1e-5)


@functools.cache
def heads_of_evaluation(model):
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False))


def test_top_five_hits_of_seven_classes():
    """A model whose logits are the pixels: ranks of the true class 0, 4 and 5."""

    class Pixels:
        def apply(self, variables, images, *, train):
            assert not train
            return images.reshape(len(images), -1), {}

    ranked = np.uint8([[90, 80, 70, 60, 50, 40, 30]] * 4)
    batch = {
        "image": jnp.asarray(ranked.reshape(4, 1, 1, 7) / np.float32(255)),
        "label": jnp.array([0, 4, 5, 0], jnp.int32),
        "mask": jnp.array([1.0, 1.0, 1.0, 0.0]),
    }
    sums = scores.eval_step({}, batch, model=Pixels())
    found = {name: float(value) for name, value in sums.items()}
    assert (found["correct"], found["correct5"], found["count"]) == (1, 2, 3)
    log_p = jax.nn.log_softmax(ranked[0] / np.float32(255))
    assert found["loss"] == pytest.approx(-float(log_p[0] + log_p[4] + log_p[5]))


def test_the_seed_draws_parameters_and_names_every_stream(folder):
    x = reference.build(folder, seed=9)
    state = x.compile_init()
    images = jnp.zeros((1, reference.SIDE, reference.SIDE, 3))
    key = reference.named(jax.random.key(9), "init")
    want = jax.jit(lambda: x.task.model.init(key, images, train=False))()
    found = state.params["blocks_0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(
        found, want["params"]["blocks_0"]["attn"]["qkv"]["kernel"], rtol=1e-6
    )
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(jax.random.key(9))
    )


@pytest.mark.parametrize("seed", [0, 9])
def test_the_seed_orders_the_examples(seed, folder):
    x = reference.build(folder, seed=seed)
    order = np.random.default_rng((seed, 1)).permutation(48)
    with x.train_batches(start_step=4) as batches:
        np.testing.assert_array_equal(next(batches)["index"], order[16:32])


@pytest.mark.parametrize(
    ("given", "steps", "evaluated"),
    [
        (dict(steps=7, eval__epochs=1.0), 7, [3, 6, 7]),
        (dict(steps=None, epochs=2.5, eval__epochs=1.5), 8, [4, 8]),
        (dict(steps=None, epochs=1.0, eval__epochs=0.1), 3, [1, 2, 3]),
    ],
)
def test_the_length_of_a_run_and_of_the_time_between_evaluations(
    given, steps, evaluated, folder
):
    """48 examples in batches of 16; half a step is rounded to the even number."""
    x = reference.build(folder, **given)
    assert x.total_steps == steps
    assert [s for s in range(steps + 1) if x.evaluates_after(s)] == evaluated

"""The whole update: dropout, statistics, micro-batches, AdamW, schedule and average.

A model with every kind of dropout, BatchNorm and a second head takes four steps of an
experiment; each is compared with the same step written out here. The second has an
infinite gradient and a finite loss.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import stream


pytestmark = pytest.mark.usefixtures("home")
SEED, FIRST, LATE = 11, 20, 1000
MODEL = {
    "name": "lvvit_s",
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "p_emb": "4_2",
    "return_dense": True,
    "mix_token": False,
    "drop_rate": 0.2,
    "attn_drop_rate": 0.2,
    "drop_path_rate": 0.5,
    "drop_path_decay": "fix",
}
KEYS = dict(
    seed=SEED,
    steps=2000,
    accumulate=2,
    dtype="float32",
    loss__classification__name="softmax",
    loss__classification__weight=0.7,
    loss__classification__smoothing=0.2,
    loss__classification__dense_weight=0.3,
    optimizer__name="adamw",
    optimizer__weight_decay=0.3,
    optimizer__grad_clip=0.5,
    optimizer__layer_decay=0.5,
    optimizer__b1=0.8,
    optimizer__b2=0.95,
    optimizer__eps=0.1,
    schedule__name="linear",
    schedule__lr=0.2,
    schedule__warmup_epochs=2.0,
    schedule__warmup_lr=0.05,
    ema__decay=0.95,
    ema__warmup=True,
)


@pytest.fixture(scope="module")
def experiment(folder):
    return reference.build(folder, model=MODEL, **KEYS)


@functools.cache
def gradients(model):
    """(params, statistics, images, labels, key) -> loss, accuracy, both updates."""

    def loss(params, stats, images, labels, key):
        variables = {"params": params, "batch_stats": stats}
        (logits, aux), new = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        smooth = labels * 0.8 + 0.2 / 3
        image = reference.cross_entropy(logits, smooth)
        tokens = reference.cross_entropy(aux["logits_aux"], smooth[:, None]).mean(1)
        hits = logits.argmax(-1) == labels.argmax(-1)
        accuracy = hits.astype(jnp.float32).mean()
        return 0.7 * (image + 0.3 * tokens).mean(), (accuracy, new["batch_stats"])

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def micro_batches(model, params, stats, batch, step, keys=(0, 1)):
    """Means over two micro-batches, one after the other, and the statistics after."""
    images = reference.normal(batch["image"])
    labels = reference.one_hot(batch["label"])
    found = []
    for i, place in enumerate(keys):
        key = jax.random.fold_in(stream(SEED, "dropout", step), place)
        part = images[i::2], labels[i::2]
        (loss, (accuracy, stats)), grads = gradients(model)(params, stats, *part, key)
        found.append((loss, accuracy, grads))
    loss, accuracy, grads = jax.tree.map(lambda a, b: (a + b) / 2, *found)
    return float(loss), float(accuracy), grads, stats


def adamw(params, grads, moments, count):
    """torch's AdamW, its rate by layers, and a gradient of length 0.5 at most."""
    factor = min(1.0, 0.5 / reference.norm(grads))
    rate = 0.05 + 0.15 * count / 6  # 2 epochs of 3 steps
    new, kept = {}, {}
    for name, p in params.items():
        g, (m, v) = grads[name] * factor, moments[name]
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        kept[name] = m, v
        m, v = m / (1 - 0.8 ** (count + 1)), v / (1 - 0.95 ** (count + 1))
        decay = 0.3 if name.endswith("kernel") else 0.0
        new[name] = p - rate * layer(name) * (m / (np.sqrt(v) + 0.1) + decay * p)
    return new, kept


def layer(name: str) -> float:
    """0.5 for each layer below the heads: the norm and the last block, the stem."""
    start = {"head": 0, "aux_head": 0, "norm": 1, "blocks_0": 1}
    return 0.5 ** start.get(name.partition("/")[0], 2)


def flat(tree):
    """Leaves as float64, by their paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.float64(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def close(found, want, atol=2e-5):
    found, want = flat(found), flat(want)
    assert found.keys() == want.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, want[name], atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def steps(experiment):
    """States before and after each step, and its metrics and batch."""
    x = experiment
    run = x.compile_train_step()
    start = reference.lively(x)
    state, out = start.replace(step=jnp.int32(FIRST)), []
    for i, change in enumerate([None, poisoned, None, None]):
        if i == 3:
            state = state.replace(step=jnp.int32(LATE))
        if i == 2:  # as before the poison
            state = state.replace(params=jax.device_put(out[0][1].params))
        if change:
            state = change(state)
        before, batch = jax.tree.map(plain, state), reference.batch_of(i)
        state, metrics = run(state, x.put(batch), [])
        out.append((before, jax.tree.map(plain, state), metrics, batch))
    return out


def plain(leaf):
    """A copy, as the step gives its state's buffers away."""
    return (
        leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.array(leaf)
    )


def poisoned(state):
    """Logits are 0, and so is what leads to them; the gradient there is infinite."""
    params = jax.tree.map(lambda leaf: leaf, state.params)
    params["norm"] = jax.tree.map(jnp.zeros_like, params["norm"])
    params["head"]["kernel"] = jnp.full_like(params["head"]["kernel"], 3e38)
    return state.replace(params=params)


@pytest.fixture(scope="module")
def wanted(experiment, steps):
    """Loss, accuracy, gradients, statistics, parameters of the three sound steps."""
    moments, out = None, {}
    for count, i in enumerate((0, 2, 3)):
        before, _, _, batch = steps[i]
        found = micro_batches(
            experiment.task.model,
            before.params,
            before.batch_stats,
            batch,
            int(before.step),
        )
        params, grads = flat(before.params), flat(found[2])
        moments = moments or {name: (0.0, 0.0) for name in params}
        params, moments = adamw(params, grads, moments, count)
        out[i] = (*found, params)
    return out


@pytest.mark.parametrize("i", [0, 2, 3])
def test_a_step_is_its_parts(i, steps, wanted):
    before, after, metrics, _ = steps[i]
    loss, accuracy, grads, stats, params = wanted[i]
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    assert float(metrics["grad_norm"]) == pytest.approx(reference.norm(grads), rel=1e-4)
    close(after.batch_stats, stats)
    close(after.params, params, atol=1e-4)
    assert int(after.step) == int(before.step) + 1
    assert int(after.streak) == 0


# The rate of a step is max((1 + t)^(-2/3), 1 - decay), t the updates before it less 1.
RATES = {0: 20 ** (-2 / 3), 2: 21 ** (-2 / 3), 3: 0.05}


@pytest.mark.parametrize("i", RATES)
def test_the_average_moves_by_its_rate(i, steps):
    """Step 22 is update 21: the one that was skipped does not count."""
    before, after, _, _ = steps[i]
    for part in ("params", "batch_stats"):
        new = flat(getattr(after, part))
        want = {
            name: old + RATES[i] * (new[name] - old)
            for name, old in flat(before.ema[part]).items()
        }
        close(after.ema[part], want, atol=1e-6 if part == "params" else 1e-5)


def test_an_infinite_gradient_of_a_finite_loss_is_skipped(steps):
    before, after, metrics, _ = steps[1]
    assert np.isfinite(float(metrics["loss"]))
    assert not np.isfinite(float(metrics["grad_norm"]))
    for part in ("params", "batch_stats", "ema", "opt_state"):
        close(getattr(after, part), getattr(before, part), atol=0)
    assert (int(after.step), int(after.skipped), int(after.streak)) == (22, 1, 1)
    assert (int(metrics["skipped"]), int(metrics["streak"])) == (1, 1)


def test_micro_batches_have_keys_of_their_own(experiment, steps, wanted):
    """With one key for both the loss would be another, by far more than rounding."""
    before, _, _, batch = steps[0]
    given = before.params, before.batch_stats, batch, FIRST
    same, *_ = micro_batches(experiment.task.model, *given, keys=(0, 0))
    assert abs(same - wanted[0][0]) > 1e-2

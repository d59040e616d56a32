"""The training and evaluation steps as pure functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import by_default
from goldens import base_normal, load_golden, reference_state
from quick import sparse

from configs import common
from vit_jax_tricks import augment, ema
from vit_jax_tricks.augment.pixels import normalize
from vit_jax_tricks.models import create_model
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.optim import optimizer
from vit_jax_tricks.optim.optimizer import Costly
from vit_jax_tricks.optim.schedule import make as make_schedule
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.runs.scores import eval_step
from vit_jax_tricks.sharding import batch_sharding, make_mesh, state_shardings
from vit_jax_tricks.state import create
from vit_jax_tricks.tasks import supervised
from vit_jax_tricks.tasks.task import Task
from vit_jax_tricks.train.step import train_step


TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
DROP_PATH = {"drop_path_rate": 0.3, "depth": 2}  # the first block drops nothing
PLAIN = {"classification": {"name": "softmax", "weight": 1.0, "smoothing": 0.0}}
SMOOTH = {"classification": {"name": "softmax", "weight": 1.0, "smoothing": 0.1}}


def nothing(key, images, index):
    return images, None


def no_mix(key, images, labels):
    return images, labels


def average(old, new, step, decay=0.9, warmup=False):
    return ema.ema_update(old, new, decay=decay, step=step, warmup=warmup)


def task_of(model, objective, **options):
    """A supervised task without data."""
    unused = ("init", "evaluate", "means", "train_batches", "eval_batches")
    return Task(
        train_batch={},
        eval_batch={},
        prepare=functools.partial(supervised.prepare, **options),
        forward_loss=functools.partial(
            supervised.forward_loss, model=model, objective=objective
        ),
        num_train=1,
        title="",
        **dict.fromkeys(unused, nothing),
    )


def make(classes=10, seed=0, **options):
    """A tiny model's state and its step."""
    overrides = options.pop("model", {})
    model = create_model("deit_tiny_patch16_224", classes, **TINY | overrides)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 16, 16, 3)))
    schedule = options.pop("schedule", optax.constant_schedule(1e-2))
    chain = optimizer.build(
        variables["params"],
        name=options.pop("algorithm", "adamw"),
        schedule=schedule,
        grad_clip=options.pop("clip", None),
    )
    state = create(variables, optimizer=chain, key=jax.random.key(seed), ema=True)
    how = {
        "optimizer": options.pop("optimizer", chain),
        "average": average,
        "accumulate": options.pop("accumulate", 1),
    }
    defaults = {
        "num_classes": classes,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "augment": nothing,
        "mix": no_mix,
    }
    task = task_of(model, Objective(SMOOTH), **defaults | options)
    return state, functools.partial(train_step, task=task, **how)


def batch(b=16, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (b, 16, 16, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, classes, b, np.int32)),
        "index": jnp.arange(b, dtype=jnp.int32),
    }


def close(a, b, atol=0.0, rtol=0.0):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x), np.asarray(y), atol=atol, rtol=rtol
        ),
        _raw(a),
        _raw(b),
    )


def _raw(tree):
    def plain(x):
        keyed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if keyed else x

    return jax.tree.map(plain, tree)


def float32_targets(labels, lam):
    """timm's mixup_target: float32 in every model, no product fused with the sum."""
    hard = np.where(np.eye(10)[labels] > 0, np.float32(0.91), np.float32(0.01))
    return jnp.asarray(hard * np.float32(lam) + hard[::-1] * np.float32(1 - lam))


def golden_run(dtype):
    """Six steps of the reference's training run; everything that it recorded."""
    manifest, arrays = load_golden("train/train_small_vit")
    model = create_model(
        "deit_tiny_patch16_224", dtype=dtype, param_dtype=dtype, **manifest["kwargs"]
    )
    variables, _ = load_arrays(model, reference_state(manifest))
    schedule = make_schedule(
        "constant", lr=1e-3, warmup_lr=1e-3 / 6, warmup_steps=5, total_steps=6
    )
    chain = optimizer.build(
        variables["params"], schedule=schedule, weight_decay=0.05, grad_clip=1.0
    )
    state = create(variables, optimizer=chain, key=jax.random.key(0), ema=True)
    images = [
        base_normal(f"train:x:{t}", (8, 3, 32, 32)).transpose(0, 2, 3, 1)
        for t in range(6)
    ]
    found, norms = [], []

    @by_default
    def step(state, fed, x, lam, targets):
        task = task_of(
            model,
            Objective(PLAIN),
            num_classes=10,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            augment=lambda key, _, index: (x, None),
            mix=lambda key, x, y: (
                augment.mixup_with(x, y.astype(x.dtype), lam)[0],
                targets,
            ),
        )
        return train_step(state, fed, task=task, optimizer=chain, average=average)

    for t, lam in enumerate(manifest["lam"]):
        fed = {
            "image": jnp.zeros((8, 32, 32, 3), jnp.uint8),
            "label": jnp.asarray(arrays["labels"][t], jnp.int32),
            "index": jnp.arange(8, dtype=jnp.int32),
        }
        x = jnp.asarray(images[t], dtype)
        targets = float32_targets(arrays["labels"][t], lam)
        state, metrics = step(state, fed, x, jnp.asarray(lam, dtype), targets)
        found.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    first = jnp.asarray(images[0], dtype)
    return {
        "losses": found,
        "grad_norms": norms,
        "logits_after": model.apply(state.variables, first)[0],
        "ema_logits_after": model.apply({"params": state.ema["params"]}, first)[0],
        "param_l2_after": [
            np.linalg.norm(
                reference_arrays(state.variables, "deit_tiny_patch16_224")[name]
            )
            for name in manifest["param_names"]
        ],
    }, arrays


@pytest.mark.slow
def test_golden_run_float64(x64):
    found, arrays = golden_run(jnp.float64)
    l2 = found.pop("param_l2_after")
    np.testing.assert_allclose(l2, arrays["param_l2_after"], rtol=0, atol=1e-9)
    for name, values in found.items():
        np.testing.assert_allclose(values, arrays[f"f64_{name}"], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_golden_run_float32():
    found, arrays = golden_run(jnp.float32)
    del found["param_l2_after"]
    for name, values in found.items():
        np.testing.assert_allclose(values, arrays[f"f32_{name}"], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_jit_equals_eager():
    """The whole state, and the metrics. Adam would divide rounding noise by itself."""
    state, step = make(algorithm="sgd", model=DROP_PATH)
    eager, jitted = step(state, batch()), jax.jit(step)(state, batch())
    close(eager, jitted, atol=2e-6)


@pytest.mark.slow
def test_jit_equals_eager_in_adam_s_moments():
    state, step = make(model=DROP_PATH)
    eager, jitted = step(state, batch()), jax.jit(step)(state, batch())
    close(eager[0].opt_state, jitted[0].opt_state, atol=1e-6)


def test_same_state_same_batch_same_step():
    state, step = make(model=DROP_PATH | {"drop_rate": 0.2})
    jitted = jax.jit(step)
    close(jitted(state, batch()), jitted(state, batch()))


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_accumulation_gives_the_same_step(scan):
    options = {"algorithm": "sgd", "model": {"scan": scan, "depth": 2}}
    state, step = make(**options)
    _, accumulated = make(**options, accumulate=4)
    once, many = jax.jit(step)(state, batch()), jax.jit(accumulated)(state, batch())
    close(once[1], many[1], atol=1e-5)
    close(once[0], many[0], atol=2e-6)


def test_accumulation_needs_no_more_than_one_micro_batch_of_dropout_keys():
    state, step = make(model={"drop_rate": 0.5}, accumulate=2)
    _, metrics = jax.jit(step)(state, batch())
    assert np.isfinite(metrics["loss"])


def both(sizes, **changes):
    """A step's state and metrics on one device, and those on a mesh of eight."""
    state, step = make(
        model=DROP_PATH,
        augment=augment.from_config(
            mean=(0.5,) * 3, **dict(common.get_config().augment) | changes
        ).augment,
    )
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    at = state_shardings(state, mesh)
    with jax.set_mesh(mesh):
        placed = jax.device_put((state, batch()), (at, batch_sharding(mesh)))
        eight = jax.jit(step, out_shardings=(at, None))(*placed)
    return jax.jit(step)(state, batch()), eight


@pytest.mark.parametrize("sizes", sparse([(2, 2, 2), (2, 4, 1), (8, 1, 1)], every=3))
def test_eight_devices_equal_one(sizes):
    one, eight = both(sizes, flip=True, pad=2)
    close(one[1], eight[1], atol=1e-5)
    close(one[0].opt_state, eight[0].opt_state, atol=1e-6)


@pytest.mark.slow
def test_eight_devices_equal_one_with_a_policy():
    """But for pixels on a tie, which programs may round to either level."""
    one, eight = both((2, 2, 2), flip=True, pad=2, auto_augment="rand-m9-mstd0.5-inc1")
    close(one[1], eight[1], atol=1e-5)


def test_a_step_that_is_not_finite_changes_only_the_counters():
    state, step = make()
    jitted = jax.jit(step)
    state, _ = jitted(state, batch())
    poisoned = state.replace(
        params=jax.tree.map(lambda p: p * jnp.float32(jnp.nan), state.params)
    )
    after, metrics = jitted(poisoned, batch())
    close(after.opt_state, state.opt_state)
    close(after.ema, state.ema)
    assert (int(after.step), int(after.skipped), int(after.streak)) == (2, 1, 1)
    assert int(metrics["streak"]) == 1
    again, _ = jitted(after.replace(params=state.params), batch())
    assert (int(again.skipped), int(again.streak)) == (1, 0)


@pytest.mark.parametrize("costly", [False, True])
def test_updates_that_are_not_finite_change_only_the_counters(costly):
    """The loss and the gradient are finite, the new parameters are not."""
    state, step = make(schedule=lambda count: jnp.float32(jnp.inf), algorithm="adamw")
    if costly:
        step = functools.partial(step, optimizer=Costly(*step.keywords["optimizer"]))
    after, metrics = jax.jit(step)(state, batch())
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])
    for part in ("params", "opt_state", "ema", "batch_stats"):
        close(getattr(after, part), getattr(state, part))
    assert (int(after.step), int(after.skipped), int(after.streak)) == (1, 1, 1)


def test_a_state_of_the_optimizer_that_is_not_finite_is_not_taken():
    """Momentum without parameters that follow it."""
    state, step = make()
    chain = step.keywords["optimizer"]

    def update(grads, opt_state, params):
        updates, after = chain.update(grads, opt_state, params)
        blown = jax.tree.map(lambda x: x * jnp.asarray(jnp.inf, x.dtype), grads)
        return updates, (after, blown)

    def init(params):
        return chain.init(params), jax.tree.map(jnp.zeros_like, params)

    wrong = optax.GradientTransformation(init, lambda g, s, p: update(g, s[0], p))
    state = state.replace(opt_state=wrong.init(state.params))
    after, metrics = jax.jit(functools.partial(step, optimizer=wrong))(state, batch())
    assert np.isfinite(metrics["loss"])
    close(after.params, state.params)
    close(after.opt_state, state.opt_state)
    assert int(after.skipped) == 1


def test_an_update_taken_at_once_or_after_a_check_is_the_same():
    state, step = make(algorithm="sgd")
    chain = step.keywords["optimizer"]
    taken = [
        jax.jit(functools.partial(step, optimizer=each))(state, batch())[0]
        for each in (chain, Costly(*chain))
    ]
    assert int(taken[0].skipped) == 0
    close(*taken, atol=1e-6)


def test_no_recompilation_after_the_first_step():
    state, step = make()
    traces = []

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    jitted = jax.jit(counted)
    for seed in range(4):
        state, _ = jitted(state, batch(seed=seed))
    assert len(traces) == 1


def test_eval_counts_each_example_once_and_ignores_padding():
    state, step = make(classes=3)
    data = batch(12, classes=3)
    data["image"] = normalize(data["image"], (0.5,) * 3, (0.5,) * 3)
    count = jax.jit(
        functools.partial(
            eval_step, model=step.keywords["task"].forward_loss.keywords["model"]
        )
    )
    whole = count(state.variables, data | {"mask": jnp.ones(12)})
    padded = {k: jnp.concatenate([v, v[:4]]) for k, v in data.items()}
    padded["mask"] = jnp.asarray([1.0] * 12 + [0.0] * 4)
    masked = count(state.variables, padded)
    close(whole, masked, atol=1e-5)
    assert float(whole["correct5"]) == float(whole["count"]) == 12  # top-3 of 3


@pytest.mark.parametrize("mix_first", [False, True])
def test_order_of_erasing_and_mixing(mix_first):
    """DeiT erases normalised images and mixes those; timm's prefetcher mixes first."""
    calls = []

    def saw(name, images):
        note = functools.partial(lambda name, x: calls.append((name, float(x))), name)
        jax.debug.callback(note, images[0, 0, 0, 0], ordered=True)

    def erase(key, images, index):
        saw("erase", images)
        return images

    def mix(key, images, labels):
        saw("mix", images)
        return images, labels

    state, step = make(erase=erase, mix=mix, mix_first=mix_first)
    black = jnp.zeros((16, 16, 16, 3), jnp.uint8)
    jax.block_until_ready(jax.jit(step)(state, batch() | {"image": black}))
    jax.effects_barrier()
    if mix_first:  # before normalisation black is 0, after it -1
        assert calls == [("mix", 0.0), ("erase", -1.0)]
    else:
        assert calls == [("erase", -1.0), ("mix", -1.0)]

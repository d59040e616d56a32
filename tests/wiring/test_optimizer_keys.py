"""`config.optimizer` and `config.schedule` against the formulas, update by update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_tricks.optim import optimizer


pytestmark = pytest.mark.usefixtures("home")
RATE = 0.1


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.float64(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def updates(x, count=2):
    """Parameters, and for each step its gradients and its update."""
    rng = np.random.default_rng(3)
    shapes = x.state_shape().params

    def noise(scale):
        return jax.tree.map(
            lambda s: scale * rng.standard_normal(s.shape).astype(np.float32), shapes
        )

    params, out = noise(0.5), []
    state, run = x.optimizer.init(params), jax.jit(x.optimizer.update)
    for scale in (1.0, 0.2)[:count]:
        grads = noise(scale)
        moved, state = run(grads, state, params)
        out.append((flat(grads), flat(moved)))
    return flat(params), out


def decays(name: str) -> bool:
    return name.endswith("kernel")


def length(x) -> float:
    return float(np.sqrt(np.square(x).sum()))


def same(found, want):
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)


def test_sgd_with_its_keys(folder):
    """Momentum, Nesterov, clipping by unit, coupled decay, and rules for some names."""
    rules = (
        ("head/.*", {"lr_mult": 0.3, "wd_mult": 0.5}),
        ("patch_embed/proj/bias", {"freeze": True}),
    )
    x = reference.build(
        folder,
        optimizer__name="sgd",
        optimizer__momentum=0.7,
        optimizer__nesterov=True,
        optimizer__weight_decay=0.2,
        optimizer__grad_clip=0.05,
        optimizer__clip_mode="adaptive",
        optimizer__rules=rules,
    )
    params, steps = updates(x)
    kept = dict.fromkeys(params, 0.0)
    for grads, found in steps:
        want = {}
        for name, p in params.items():
            g = by_unit(name, grads[name], p)
            head = name.startswith("head/")
            g = g + 0.2 * decays(name) * (0.5 if head else 1.0) * p
            kept[name] = 0.7 * kept[name] + g
            moved = -RATE * (0.7 * kept[name] + g) * (0.3 if head else 1.0)
            want[name] = 0 * moved if name == "patch_embed/proj/bias" else moved
        same(found, want)


def by_unit(name, g, p):
    """Each output unit's gradient to at most 0.05 of the unit (at least 0.001)."""
    axes = tuple(range(g.ndim))
    if name.endswith("qkv/kernel"):
        axes = (0,)
    elif name.endswith("kernel"):
        axes = axes[:-1]

    def norm(x):
        return np.sqrt(np.square(x).sum(axes, keepdims=True))

    limit = 0.05 * np.maximum(norm(p), 1e-3)
    return g * np.minimum(1.0, limit / np.maximum(norm(g), 1e-6))


@pytest.mark.parametrize("clip", [False, True])
def test_lamb_with_its_keys(clip, folder):
    """The trust ratio on all parameters, at most 1 or not; the norm clipped at 1."""
    x = reference.build(
        folder,
        optimizer__name="lamb",
        optimizer__trust_clip=clip,
        optimizer__always_adapt=True,
        optimizer__weight_decay=0.2,
        optimizer__eps=1e-2,
    )
    params, [(grads, found)] = updates(x, count=1)
    whole = np.sqrt(sum(np.square(g).sum() for g in grads.values()))
    want, ratios = {}, []
    for name, p in params.items():
        g = grads[name] / max(whole, 1.0)
        step = g / (np.abs(g) + 1e-2) + 0.2 * decays(name) * p
        ratios.append(length(p) / length(step))
        want[name] = -RATE * step * (min(ratios[-1], 1.0) if clip else ratios[-1])
    assert min(ratios) < 1 < max(ratios)
    same(found, want)


def test_lambs_trust_ratio_is_a_layers_own_in_stacked_blocks():
    """Two layers of very different sizes under one name, as scan stacks them."""
    rng = np.random.default_rng(0)
    sizes = np.float32([0.01, 10.0]).reshape(2, 1, 1)
    params = {"blocks": {"fc1": {"kernel": sizes * rng.standard_normal((2, 3, 4))}}}
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    grads = jax.tree.map(lambda p: p[::-1] + 1, params)
    chain = optimizer.build(
        params,
        schedule=lambda step: jnp.float32(1.0),
        name="lamb",
        weight_decay=0.1,
        grad_clip=0.0,
    )
    moved, _ = chain.update(grads, chain.init(params), params)
    p, g, u = (tree["blocks"]["fc1"]["kernel"] for tree in (params, grads, moved))
    for i in range(2):
        step = g[i] / (np.abs(g[i]) + 1e-6) + 0.1 * p[i]
        want = -step * length(p[i]) / length(step)
        np.testing.assert_allclose(u[i], want, rtol=1e-4)


def test_a_frozen_layer_of_stacked_blocks_is_not_in_the_norm():
    rng = np.random.default_rng(0)
    grads = {"blocks": {"fc1": {"kernel": jnp.asarray(rng.normal(size=(2, 3, 4)))}}}
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    chain = optimizer.build(
        grads,
        schedule=lambda step: jnp.float32(1.0),
        name="sgd",
        weight_decay=0.0,
        grad_clip=0.5,
        momentum=0.0,
        rules=[("blocks_1/.*", {"freeze": True})],
    )
    moved, _ = chain.update(grads, chain.init(grads), grads)
    (g, _), (first, second) = (t["blocks"]["fc1"]["kernel"] for t in (grads, moved))
    np.testing.assert_allclose(first, -0.5 * g / length(g), rtol=1e-5)
    assert not np.any(second)


def test_adams_decay_is_part_of_the_gradient(folder):
    x = reference.build(folder, optimizer__name="adam", optimizer__weight_decay=0.5)
    params, [(grads, found)] = updates(x, count=1)
    want = {}
    for name, p in params.items():
        g = grads[name] + 0.5 * decays(name) * p
        want[name] = -RATE * g / (np.abs(g) + 1e-8)
    same(found, want)


def test_lion_takes_its_two_rates(folder):
    x = reference.build(
        folder, optimizer__name="lion", optimizer__b1=0.5, optimizer__b2=0.1
    )
    params, steps = updates(x)
    kept = dict.fromkeys(params, 0.0)
    for grads, found in steps:
        want = {}
        for name, g in grads.items():
            want[name] = -RATE * np.sign(0.5 * kept[name] + 0.5 * g)
            kept[name] = 0.1 * kept[name] + 0.9 * g
        same(found, want)


EPOCH = 3  # steps of 16 examples in an epoch of 48
BASE = dict(steps=60, schedule__lr=0.5, schedule__warmup_lr=0.1, schedule__min_lr=0.05)
SCHEDULES = {
    "cosine_optax": dict(schedule__warmup_epochs=2.0, schedule__cooldown_epochs=1.5),
    "cosine_timm": dict(schedule__warmup_epochs=2.0, schedule__lr_per=64),
    "linear": dict(schedule__warmup_epochs=2.5, schedule__per_epoch=True),
    "constant": dict(
        schedule__warmup_epochs=3.0, schedule__per_epoch=True, schedule__lag_epochs=1
    ),
}


def rate(name, step, epochs, cooldown=0.0, lr=0.5, hold=False, lag=0):
    """The rate of an update by the published formulas."""
    warmup, end = round(epochs * EPOCH), 60 - round(cooldown * EPOCH)
    step = max(step // EPOCH - lag, 0) * EPOCH if hold else step
    if step < warmup:
        return 0.1 + (lr - 0.1) * step / warmup
    start = 0 if name == "cosine_timm" else warmup
    done = min((step - start) / (end - start), 1.0)
    shape = {"linear": 1 - done, "constant": 1.0}
    falling = shape.get(name, (1 + np.cos(np.pi * done)) / 2)
    return 0.05 + (lr - 0.05) * falling


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_each_step(name, folder):
    given = SCHEDULES[name]
    x = reference.build(folder, schedule__name=name, **BASE | given)
    lr = 0.5 * 16 / 64 if "schedule__lr_per" in given else 0.5
    want = [
        rate(
            name,
            step,
            given["schedule__warmup_epochs"],
            given.get("schedule__cooldown_epochs", 0.0),
            lr,
            given.get("schedule__per_epoch", False),
            given.get("schedule__lag_epochs", 0),
        )
        for step in range(62)
    ]
    np.testing.assert_allclose(x.lr(np.arange(62)), want, atol=1e-6)
    assert x.peak_lr == pytest.approx(lr)

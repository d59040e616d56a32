"""Optimisers against recorded trajectories of torch and timm, and our own rules."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.optim import optimizer


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/train/optimizers.npz")
LEAVES = ("w", "b", "conv")

CASES = {
    "adamw": dict(name="adamw", lr=0.01, weight_decay=0.05),
    "adam_l2": dict(name="adam", lr=0.01, weight_decay=0.05),
    "sgd_nesterov": dict(name="sgd", lr=0.01, weight_decay=0.01, nesterov=True),
    "sgd_momentum": dict(name="sgd", lr=0.01, weight_decay=0.0),
    "lamb": dict(name="lamb", lr=0.01, weight_decay=0.02),
    "lamb_nonorm": dict(name="lamb", lr=0.01, weight_decay=0.02, grad_clip=0.0),
    "lamb_always_adapt_clip": dict(
        name="lamb", lr=0.01, weight_decay=0.02, always_adapt=True, trust_clip=True
    ),
    "lion": dict(name="lion", lr=0.001, weight_decay=0.1),
}


def golden_tree(prefix, dtype, step=None):
    """Golden arrays as kernels, so that all of them decay as they do there."""

    def leaf(name):
        x = GOLDEN[f"{prefix}:{name}"]
        x = x if step is None else x[step]
        return x.reshape(1, -1) if x.ndim == 1 else x

    return {n: {"kernel": jnp.asarray(leaf(n), dtype)} for n in LEAVES}


def assert_trajectory(case, dtype, tolerance):
    options = dict(CASES[case])
    params = golden_tree("init", dtype)
    lr = options.pop("lr")
    tx = optimizer.build(params, schedule=lambda _: lr, **options)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for t in range(12):
        updates, state = update(golden_tree("grads", dtype, t), state, params)
        params = optax.apply_updates(params, updates)
        want = golden_tree(case, dtype, t)
        for name in LEAVES:
            np.testing.assert_allclose(
                params[name]["kernel"],
                want[name]["kernel"],
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} after step {t}",
            )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_trajectory_float64(case):
    assert_trajectory(case, jnp.float64, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_trajectory_float32(case):
    assert_trajectory(case, jnp.float32, 2e-5)


def sgd(params, **options):
    """An optimiser whose update is minus what is left of the gradient."""
    return optimizer.build(
        params,
        name="sgd",
        momentum=0.0,
        schedule=lambda _: 1.0,
        **{"weight_decay": 0.0, **options},
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("limit", ["1.0", "100"])
def test_clip_by_global_norm_is_torchs(limit):
    params = {n: jnp.asarray(GOLDEN[f"init:{n}"], jnp.float64) for n in LEAVES}
    grads = {n: jnp.asarray(GOLDEN[f"grads:{n}"][0], jnp.float64) for n in LEAVES}
    tx = sgd(params, grad_clip=float(limit))
    updates, _ = tx.update(grads, tx.init(params), params)
    for name in LEAVES:
        want = GOLDEN[f"clip_norm{limit}:{name}"]
        np.testing.assert_allclose(-updates[name], want, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("limit", ["0.01", "0.5"])
def test_adaptive_clip_is_timms(limit):
    def flax_layout(name, x):
        x = jnp.asarray(x, jnp.float64)
        if name == "b":
            return {"bias": x}
        return {"kernel": x.transpose((1, 0) if name == "w" else (2, 3, 1, 0))}

    params = {n: flax_layout(n, GOLDEN[f"init:{n}"]) for n in LEAVES}
    grads = {n: flax_layout(n, GOLDEN[f"grads:{n}"][0]) for n in LEAVES}
    want = {n: flax_layout(n, GOLDEN[f"clip_agc{limit}:{n}"]) for n in LEAVES}
    tx = sgd(params, grad_clip=float(limit), clip_mode="adaptive")
    updates, _ = tx.update(grads, tx.init(params), params)
    jax.tree.map(
        lambda u, w: np.testing.assert_allclose(-u, w, rtol=1e-9), updates, want
    )


def vit_params(depth=3, d=8, g=2, seed=0, scan=False):
    """A ViT's tree with random values, blocks apart or stacked."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    def block():
        return {
            "norm1": {"scale": leaf(d), "bias": leaf(d)},
            "attn": {
                "qkv": {"kernel": leaf(d, 3, g, d // g), "bias": leaf(3, g, d // g)},
                "proj": {"kernel": leaf(g, d // g, d), "bias": leaf(d)},
            },
            "ls1": {"gamma": leaf(d)},
            "mlp": {"fc1": {"kernel": leaf(d, 4 * d), "bias": leaf(4 * d)}},
        }

    params = {
        "cls_token": leaf(1, 1, d),
        "pos_embed": leaf(1, 5, d),
        "patch_embed": {"proj": {"kernel": leaf(4, 4, 3, d), "bias": leaf(d)}},
        "norm": {"scale": leaf(d), "bias": leaf(d)},
        "head": {"kernel": leaf(d, 10), "bias": leaf(10)},
    }
    blocks = [block() for _ in range(depth)]
    if scan:
        return params | {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}
    return params | {f"blocks_{i}": b for i, b in enumerate(blocks)}


def stack(tree, depth=3):
    rest = {k: v for k, v in tree.items() if not k.startswith("blocks")}
    blocks = [tree[f"blocks_{i}"] for i in range(depth)]
    return rest | {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}


LAYOUT_CASES = [
    dict(name="adamw"),
    dict(name="lamb"),
    dict(name="muon"),
    dict(name="sgd", grad_clip=0.1, clip_mode="adaptive"),
    dict(
        name="adamw",
        layer_decay=0.7,
        grad_clip=1.0,
        rules=[("blocks_1/.*", dict(freeze=True)), ("head/.*", dict(lr_mult=10.0))],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", LAYOUT_CASES, ids=str)
def test_stacked_blocks_take_the_same_steps(options):
    """Trust ratios, clipping units, Muon's matrices and layer rates are per layer."""
    apart = vit_params()
    stacked = stack(apart)
    results = []
    for params, scan in ((apart, False), (stacked, True)):
        tx = optimizer.build(params, schedule=lambda _: 0.01, **options)
        state = tx.init(params)
        for seed in (1, 2, 3):
            grads = vit_params(seed=seed, scan=scan)
            updates, state = jax.jit(tx.update)(grads, state, params)
            params = optax.apply_updates(params, updates)
        results.append(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        stack(results[0]),
        results[1],
    )


def test_frozen_parameters_have_no_state_and_do_not_move():
    params = vit_params()
    rules = [(".*(?<!head/kernel)(?<!head/bias)", dict(freeze=True))]
    tx = optimizer.build(params, schedule=lambda _: 0.1, grad_clip=1.0, rules=rules)
    state = tx.init(params)
    head = sum(x.size for x in jax.tree.leaves(params["head"]))
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * head + 2  # two counters
    updates, _ = tx.update(vit_params(seed=1), state, params)
    moved = {k for k, v in updates.items() if any(map(jnp.any, jax.tree.leaves(v)))}
    assert moved == {"head"}


def test_frozen_gradients_do_not_count_in_the_norm():
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    tx = sgd(params, grad_clip=1.0, rules=[("a/.*", dict(freeze=True))])
    grads = {"a": {"kernel": jnp.full((2, 2), 1e6)}, "b": {"kernel": jnp.ones((2, 2))}}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["b"]["kernel"], -0.5, rtol=1e-5)


def test_lr_and_decay_multipliers():
    params = vit_params()
    options = dict(weight_decay=0.5, schedule=lambda _: 1.0, name="sgd", momentum=0.0)
    rules = [
        ("head/kernel", dict(lr_mult=2.0)),
        (r"blocks_\d+/mlp/.*", dict(wd_mult=0.1)),
    ]
    tx = optimizer.build(params, rules=rules, **options)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    fc1 = params["blocks_0"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_allclose(updates["head"]["kernel"], -params["head"]["kernel"])
    np.testing.assert_allclose(
        updates["blocks_0"]["mlp"]["fc1"]["kernel"], -0.05 * fc1, rtol=1e-6
    )
    assert not updates["blocks_0"]["attn"]["qkv"]["bias"].any()
    assert not updates["pos_embed"].any()


def test_muon_orthogonalises_queries_keys_and_values_apart():
    params = vit_params(depth=1, d=16)
    tx = optimizer.build(params, name="muon", schedule=lambda _: 1.0, weight_decay=0.0)
    grads = vit_params(depth=1, d=16, seed=1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    qkv = np.asarray(updates["blocks_0"]["attn"]["qkv"]["kernel"]).reshape(16, 3, 16)
    for i in range(3):
        values = np.linalg.svd(qkv[:, i], compute_uv=False) / (0.2 * 4.0)
        assert values.min() > 0.3  # Newton-Schulz aims at 1, loosely
        assert values.max() < 1.3
    proj = np.asarray(updates["blocks_0"]["attn"]["proj"]["kernel"]).reshape(16, 16)
    assert np.linalg.svd(proj, compute_uv=False).max() < 0.8 * 1.3
    head = np.abs(updates["head"]["kernel"])  # AdamW's first step is the sign
    np.testing.assert_allclose(head, 1.0, rtol=1e-4)


def newton_schulz(matrix):
    """Muon's five steps towards the nearest orthogonal matrix (Jordan et al. 2024)."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_follows_its_momentum(nesterov):
    """The second update, of a square matrix: the average, or a look ahead of it."""
    first, second = np.random.default_rng(0).normal(size=(2, 2, 8, 16))

    def tree(kernel):
        kernel = jnp.asarray(kernel, jnp.float32)
        return {"blocks_0": {"attn": {"proj": {"kernel": kernel}}}}

    given = dict(weight_decay=0.0, momentum=0.8, nesterov=nesterov)
    params = tree(np.ones((2, 8, 16)))
    tx = optimizer.build(params, name="muon", schedule=lambda _: 1.0, **given)
    _, state = tx.update(tree(first), tx.init(params), params)
    updates, _ = tx.update(tree(second), state, params)
    found = np.asarray(updates["blocks_0"]["attn"]["proj"]["kernel"]).reshape(16, 16)
    mean = 0.2 * (0.8 * first + second)
    if nesterov:
        mean = 0.8 * mean / (1 - 0.8**3) + 0.2 * second / (1 - 0.8**2)
    want = -0.2 * 4 * newton_schulz(mean.reshape(16, 16))
    np.testing.assert_allclose(found, want, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(optimizer.OPTIMIZERS))
def test_shapes_are_enough_and_steps_descend(name):
    params = vit_params()
    shapes = jax.eval_shape(lambda: params)
    tx = optimizer.build(shapes, name=name, schedule=lambda _: 1e-3)
    grads = vit_params(seed=4)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    products = jax.tree.map(lambda u, g: jnp.vdot(u, g), updates, grads)
    assert all(p < 0 for p in jax.tree.leaves(products))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="adamm"), 'Did you mean "adam'),
        (dict(name="lion", eps=1e-8), "lion takes no eps; it takes b1, b2"),
        (dict(name="adamw", momentum=0.9), "it takes b1, b2, eps"),
        (dict(grad_clip=-1.0), "grad_clip=-1.0"),
        (dict(clip_mode="agc"), 'clip_mode "agc"'),
        (dict(layer_decay=1.5), "layer_decay=1.5"),
        (dict(rules=[("haed/.*", dict(freeze=True))]), '"haed/.*" matches no'),
        (dict(rules=[("head/.*", dict(lr_mul=2.0))]), 'Did you mean "lr_mult"'),
        (dict(rules=[("head/(", dict(freeze=True))]), "is not (regex"),
        (dict(rules=["head"]), "is not (regex"),
        (dict(rules=[("head/.*", dict(freeze=1))]), "freeze=1"),
        (
            dict(rules=[("head/.*", dict(lr_mult=2)), (".*bias", dict(wd_mult=0))]),
            "both match head/bias",
        ),
    ],
)
def test_mistakes_are_one_clear_line(options, message):
    with pytest.raises(UserError) as caught:
        optimizer.build(vit_params(), schedule=lambda _: 1.0, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

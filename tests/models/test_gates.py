"""Gates are sub-networks as data: equal to models of sliced weights, in one program."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruned_models
import pytest
from model_goldens import jit_once
from quick import sparse
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.gates import architecture_gates, gate_shapes, nested_gates
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.glu import GatedMlp
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerNorm, RmsNorm
from vit_jax_tricks.models.layers.outlook import OutlookAttention
from vit_jax_tricks.models.layers.talking_heads import (
    ClassAttention,
    TalkingHeadsAttention,
)
from vit_jax_tricks.models.stacking import stack_like
from vit_jax_tricks.state import create
from vit_jax_tricks.tasks import Task
from vit_jax_tricks.train.step import train_step


FAMILIES = list(pruned_models.SMALL)


@functools.cache
def setting(family, **fields):
    """The model, its variables, images, labels."""
    model = pruned_models.create(family, **fields)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, *model.image_shape)), jnp.float32)
    return model, fill(model, x), x, jnp.asarray([0, 1, 2, 4])


def loss_of(model, variables, x, labels, gates=None, **options):
    given = variables if gates is None else {**variables, "gates": gates}
    logits, _ = model.apply(given, x, **options)
    return -jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels].mean()


def sliced(arrays, like):
    """The leading part of each array that has the shape of `like`, at its place."""
    return {
        key: sliced(arrays[key], leaf)
        if isinstance(leaf, dict)
        else arrays[key][tuple(map(slice, leaf.shape))]
        for key, leaf in like.items()
    }


def padded(arrays, like):
    """The inverse of `sliced`: zeros everywhere else."""
    out = {}
    for key, leaf in like.items():
        if isinstance(leaf, dict):
            out[key] = padded(arrays.get(key, {}), leaf)
        else:
            part = arrays[key] if key in arrays else np.zeros((0,) * leaf.ndim)
            ends = [(0, n - m) for n, m in zip(leaf.shape, part.shape, strict=True)]
            out[key] = np.pad(part, ends)
    return out


@pytest.mark.parametrize("depth", sparse([2, 3], every=2))
def test_a_sub_network_is_the_model_of_the_sliced_weights(depth):
    """Forward and backward; what is closed has gradients of exactly zero."""
    fields: Any = {} if depth == 2 else {"pos_embed": "rel_mlp"}
    model, variables, x, labels = setting("vit", depth=depth, **fields)
    heads, hidden, width = (2, 1, 3)[:depth], (40, 96, 7)[:depth], 16
    small = pruned_models.create(
        "vit",
        **fields | {"embed_dim": width, "head_dim": 8, "depth": depth - 1},
        block_heads=heads[:-1],
        block_hidden=hidden[:-1],
    )
    shapes = jax.eval_shape(small.init, jax.random.key(0), x)
    inner = sliced(variables, shapes)
    want, grads = jit_once(jax.value_and_grad(functools.partial(loss_of, small)))(
        inner, x, labels
    )

    def gated(variables, architecture):
        gates = architecture_gates(model, **architecture)
        return loss_of(model, variables, x, labels, gates)

    architecture = {
        "width": np.asarray(width),
        "depth": np.asarray(depth - 1),
        "heads": np.asarray(heads),
        "hidden": np.asarray(hidden),
    }
    got, found = jit_once(jax.value_and_grad(gated))(variables, architecture)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    chex.assert_trees_all_close(found, padded(grads, found), atol=2e-6, rtol=1e-4)
    taken = padded(jax.tree.map(np.ones_like, grads), found)
    for one, part in zip(*map(jax.tree.leaves, (found, taken)), strict=True):
        assert not np.asarray(one)[part == 0].any()


def test_fifty_architectures_are_one_training_step():
    """The architecture comes with the batch; weights outside of it stay unchanged.

    With dropout, stochastic depth, scanned and rematerialised blocks.
    """
    rates = dict(drop_path_rate=0.2, proj_drop_rate=0.1)
    model, start, x, labels = setting("vit", scan=True, remat=True, **rates)

    def forward_loss(params, batch_stats, inputs, frozen, *, key, step):
        gates = architecture_gates(model, **inputs["architecture"])
        rngs = {"dropout": key("dropout")}
        loss = loss_of(
            model, {"params": params}, x, labels, gates, train=True, rngs=rngs
        )
        metrics: Any = {"loss": loss}
        return loss, (metrics, batch_stats)

    def unused(*args, **kwargs):
        raise AssertionError

    task = Task(
        train_batch={},
        eval_batch={},
        init=unused,
        prepare=lambda key, batch: {"architecture": batch},
        forward_loss=forward_loss,
        evaluate=unused,
        means=unused,
        num_train=1,
        train_batches=unused,
        eval_batches=unused,
        title="a supernet",
    )
    optimizer = optax.sgd(1e-2)
    step: Any = jit_once(functools.partial(train_step, task=task, optimizer=optimizer))
    state = create(start, optimizer=optimizer, key=jax.random.key(0), ema=False)
    rng, losses = np.random.default_rng(0), set()
    old = jax.device_get(state.params)
    for _ in range(50):
        depth, heads = int(rng.integers(1, 4)), rng.integers(1, 4, 3)
        width, hidden = int(rng.integers(1, 4)) * 8, rng.integers(1, 97, 3)
        given = {"width": width, "depth": depth, "heads": heads, "hidden": hidden}
        state, metrics = step(state, jax.tree.map(np.asarray, given))
        new = jax.device_get(state.params)
        moved = jax.tree.map(np.not_equal, new, old)
        blocks, old = moved["blocks"], new
        first = blocks["mlp"]["fc1"]["kernel"][0]
        assert first[:width, : hidden[0]].mean() > 0.5
        assert not first[width:].any()
        assert not first[:, hidden[0] :].any()
        assert not moved["norm"]["scale"][width:].any()
        assert not moved["patch_embed"]["proj"]["kernel"][..., width:].any()
        assert not blocks["attn"]["qkv"]["kernel"][0, :, :, heads[0] :].any()
        assert not any(leaf[depth:].any() for leaf in jax.tree.leaves(blocks))
        losses.add(float(metrics["loss"]))
    assert step._cache_size() == 1
    assert len(losses) == 50
    assert int(state.skipped) == 0


def test_many_architectures_at_once():
    """A map over architectures, and one for each image, are the single ones."""
    model, variables, x, _ = setting("vit", scan=True)
    given = {
        "width": np.asarray([24, 16, 8, 16]),
        "depth": np.asarray([3, 1, 2, 3]),
        "heads": np.asarray([[3, 3, 3], [1, 2, 3], [2, 1, 1], [3, 1, 3]]),
        "hidden": np.asarray([[96, 96, 96], [3, 5, 7], [9, 90, 1], [44, 33, 22]]),
    }

    def logits(architecture, x):
        gates = architecture_gates(model, **architecture)
        return model.apply({**variables, "gates": gates}, x)[0]

    each = jit_once(logits)(given, x)
    mapped = jit_once(jax.vmap(logits))(given, x[:, None])[:, 0]
    np.testing.assert_allclose(each, mapped, atol=1e-5)
    want = apply(model, variables, x)[0]
    np.testing.assert_allclose(each[0], want[0], atol=1e-5)  # the whole model
    assert np.abs(each[1:] - want[1:]).max(1).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_open_gates_change_nothing(family):
    model, variables, x, _ = setting(family, scan=True)
    ones = {k: jnp.ones(s, jnp.float32) for k, s in gate_shapes(model).items()}
    given = {**variables, "gates": nested_gates(model, ones)}
    run = functools.partial(apply, model, images=x, train=True, mutable=["batch_stats"])
    (want, _), (got, _) = run(variables=variables), run(variables=given)
    np.testing.assert_allclose(got[0], want[0], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_gates_of_stacked_blocks_are_those_of_the_others(family):
    model, variables, x, _ = setting(family)
    rng = np.random.default_rng(1)
    gates = {
        path: jnp.asarray(rng.integers(0, 2, shape), jnp.float32)
        for path, shape in gate_shapes(model).items()
        if not path.endswith("width")
    }
    scanned, stacked, _, _ = setting(family, scan=True)
    both = stack_like(variables["params"], stacked["params"])
    one = {**variables, "gates": nested_gates(model, gates)}
    two = {**variables, "params": both, "gates": nested_gates(scanned, gates)}
    want, got = apply(model, one, x)[0], apply(scanned, two, x)[0]
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert np.abs(want - apply(model, variables, x)[0]).max() > 1e-3


LAYERS = {
    "talking heads": (TalkingHeadsAttention, "num_heads", 3, {"head_dim": 4}),
    "class": (ClassAttention, "num_heads", 3, {"head_dim": 4}),
    "norm of heads": (
        Attention,
        "num_heads",
        3,
        {"head_dim": 4, "qk_norm": True, "scale_norm": True, "qkv": "separate_qv"},
    ),
    "norm of units": (GatedMlp, "hidden", 9, {"norm": LayerNorm}),
    "RMS norm of units": (Mlp, "hidden", 9, {"norm": RmsNorm}),
    "outlook": (OutlookAttention, "num_heads", 3, {"head_dim": 4}),
}


@pytest.mark.parametrize("case", sparse(list(LAYERS), every=len(LAYERS)))
def test_a_layer_with_gates_is_the_smaller_layer(case):
    layer, field, size, fields = LAYERS[case]
    name = {"num_heads": "heads"}.get(field, field)
    whole, part = (layer(**{field: n}, **fields) for n in (size, size - 1))
    shape = (2, 4, 4, 8) if case == "outlook" else (2, 5, 8)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: whole.init(key, x, False))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes
    )
    less = sliced(variables, jax.eval_shape(lambda: part.init(key, x, False)))
    if case == "outlook":  # the attention of a head, from all its logits
        assert less["params"]["attn"]["kernel"].shape == (8, 2, 81)
    gates = {name: jnp.ones(size).at[-1].set(0)}

    def run(layer, variables):
        return jit_once(lambda v, x: layer.apply(v, x, False))(variables, x)

    got, want = run(whole, {**variables, "gates": gates}), run(part, less)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - run(whole, variables)).max() > 1e-3


def test_gates_that_do_not_fit():
    model, variables, x, _ = setting("vit")
    with pytest.raises(UserError, match='Did you mean "blocks_1/attn/heads"'):
        nested_gates(model, {"blocks_1/attn/haeds": jnp.ones(3)})
    gates = nested_gates(model, {"blocks_1/attn/heads": jnp.ones(4)})
    with pytest.raises(UserError, match=r"heads is float32\[4\]; expected the shape"):
        model.apply({**variables, "gates": gates}, x)
    for given, message in (
        ({"heads": (1, 2)}, r"heads is int32\[2\]; expected integers \[\], \[3\]"),
        ({"depth": np.ones((1, 1), int)}, r"depth is int32\[1, 1\]; expected integers"),
    ):
        with pytest.raises(UserError, match=message):
            architecture_gates(model, **given)
    swin = pruned_models.create("swin")
    with pytest.raises(UserError, match="ties its width to stages"):
        architecture_gates(swin, width=4)
    with pytest.raises(UserError, match="has stages, so depth does not say"):
        architecture_gates(swin, depth=1)
    pooled = create_model("vit_base_patch16_siglip_224", depth=1)
    with pytest.raises(UserError, match="cuts the width into heads"):
        architecture_gates(pooled, width=8)

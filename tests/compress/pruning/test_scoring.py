"""Scores over batches: those of `compress.scores`, taken inside the models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pruned_models
import pytest
from model_goldens import jit_once
from small_models import fill

from vit_jax_tricks.compress import scores
from vit_jax_tricks.compress.pruning.gates import gated_apply
from vit_jax_tricks.compress.pruning.groups import find_groups
from vit_jax_tricks.compress.pruning.scoring import CRITERIA, score, score_batch
from vit_jax_tricks.errors import UserError


@pytest.fixture(scope="module")
def vit():
    return setting("vit", depth=2)


def setting(family, **fields):
    """Model, variables, groups, images, labels."""
    model = pruned_models.create(family, **fields)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, *model.image_shape)), jnp.float32)
    groups = find_groups(model)
    return model, fill(model, x), groups, x, jnp.asarray([0, 1, 2, 4])


def one(setting, criterion):
    model, variables, groups, x, labels = setting
    step = functools.partial(
        score_batch, model=model, groups=groups, criterion=criterion
    )
    return jit_once(step)(variables, x, labels)


def loss_of(setting, gates, index=slice(None)):
    model, variables, groups, x, labels = setting
    (logits, _), _ = gated_apply(model, variables, x[index], groups, gates)
    picked = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), labels[index]]
    return -picked.sum()


def test_gradients_are_those_of_a_gate_image_by_image(vit):
    """By central differences of each image's loss."""
    got = one(vit, "gradient")
    groups, step = vit[2], 1e-2
    for name in ("blocks_1/heads", "blocks_0/hidden"):
        for unit in (0, groups[name].size - 1):
            each = []
            for image in range(4):
                index = slice(image, image + 1)
                ends = []
                for sign in (1, -1):
                    gate = jnp.ones((1, groups[name].size))
                    gate = gate.at[0, unit].add(sign * step)
                    ends.append(float(loss_of(vit, {name: gate}, index)))
                each.append(abs(ends[0] - ends[1]) / (2 * step))
            np.testing.assert_allclose(got[name][unit], np.mean(each), atol=2e-4)


def test_gradients_are_the_function_of_the_maths(vit):
    """`scores.gate_gradients` on outputs, projection and upstream gradient."""
    model, variables, groups, x, _ = vit
    group = groups["blocks_1/heads"]
    got = one(vit, "gradient")[group.name]
    params = variables["params"]["blocks_1"]["attn"]["proj"]
    _, seen = gated_apply(model, variables, x, groups, {})
    # d loss / d out, by the bias of the projection, token by token
    outputs = seen[group.place]

    def upstream(extra):
        def add(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            path = "/".join(context.module.path)
            return out + extra if path == group.place else out

        with nn.intercept_methods(add):
            return loss_of(vit, {})

    zeros = jnp.zeros((*outputs.shape[:2], params["kernel"].shape[-1]))
    gradient = jax.jit(jax.grad(upstream))(zeros)
    each = scores.gate_gradients(outputs, params["kernel"], gradient)
    expected = scores.gate_importance(each, normalize=False)
    np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_taylor_sums_weights_times_gradients(vit):
    model, variables, _, x, labels = vit

    def loss(params):
        logits, _ = model.apply({"params": params}, x)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()

    params = variables["params"]
    grads = jax.jit(jax.grad(loss))(params)
    product = jax.tree.map(lambda w, g: np.abs(w * g), params, grads)["blocks_0"]
    mlp, attn = product["mlp"], product["attn"]
    hidden = mlp["fc1"]["kernel"].sum(0) + mlp["fc1"]["bias"]
    hidden = hidden + mlp["fc2"]["kernel"].sum(1)
    heads = attn["qkv"]["kernel"].sum((0, 1, 3)) + attn["qkv"]["bias"].sum((0, 2))
    heads = heads + attn["proj"]["kernel"].sum((1, 2))
    got = one(vit, "taylor")
    np.testing.assert_allclose(got["blocks_0/hidden"], hidden, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(got["blocks_0/heads"], heads, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_attention_scores_read_the_probabilities(vit):
    """Of queries and keys computed here from the normed tokens."""
    model, variables, groups, x, _ = vit
    _, seen = gated_apply(model, variables, x, groups, {})
    weights = seen["blocks_0/attn"]
    assert weights.shape == (4, 3, 17, 17)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    for criterion, function in (
        ("confidence", scores.attention_confidence),
        ("entropy", lambda w: 1 + scores.attention_entropy(w)),
        ("class_attention", scores.class_attention),
        ("mean_attention", scores.mean_attention),
    ):
        got = one(vit, criterion)
        heads, near = got["blocks_0/heads"], 1e-6  # 1 - entropy cancels
        np.testing.assert_allclose(heads, function(weights), rtol=1e-5, atol=near)
        hidden = one(vit, "output_norm")["blocks_0/hidden"]
        np.testing.assert_allclose(got["blocks_0/hidden"], hidden, rtol=1e-5)
    mean = one(vit, "mean_attention")["blocks_1/heads"]
    np.testing.assert_allclose(mean, 1 / 17, rtol=1e-5)  # of every head


def test_class_attention_leaves_out_every_token_before_the_patches():
    """The distillation token too: rows of probabilities sum to 1."""
    given = setting("deit distilled", depth=1)
    model, variables, groups, x, _ = given
    found = one(given, "class_attention")["blocks_0/heads"]
    _, seen = jit_once(lambda v: gated_apply(model, v, x, groups, {}))(variables)
    weights = np.asarray(seen["blocks_0/attn"])
    want = 1 - weights[:, :, 0, :2].sum(-1).mean(0)
    np.testing.assert_allclose(found, want, rtol=1e-5)


FAMILIES = [f for f in pruned_models.SMALL if f != "vit"]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "class_attention"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, criterion):
    """Finite, not negative, and not all alike, but for the mean attention."""
    given = setting(family)
    for name, values in one(given, criterion).items():
        assert values.shape == (given[2][name].size,)
        assert bool(jnp.isfinite(values).all())
        assert float(values.min()) >= 0
        if criterion != "mean_attention":
            assert float(jnp.ptp(values)) > 0, name


def test_batches_are_averaged_by_image(vit):
    model, variables, groups, x, labels = vit
    whole = score(model, variables, [(x, labels)], groups, "gradient")
    cut = [(x[:3], labels[:3]), (x[3:], labels[3:])]
    parts = score(model, variables, cut, groups, "gradient")
    for name in groups:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_bfloat16_is_near(vit):
    model, variables, groups, x, labels = vit
    half = (model.clone(dtype=jnp.bfloat16), variables, groups, x, labels)
    for criterion in ("gradient", "taylor", "output_norm", "entropy"):
        ours, full = one(half, criterion), one(vit, criterion)
        for name in groups:
            assert ours[name].dtype == jnp.float32
            scale = float(jnp.abs(full[name]).max())
            np.testing.assert_allclose(ours[name], full[name], atol=0.15 * scale)


def test_what_does_not_fit(vit):
    model, variables, groups, x, labels = vit
    batch = [(x, labels)]
    with pytest.raises(UserError, match='Did you mean "taylor"'):
        score(model, variables, batch, groups, "tailor")
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    with pytest.raises(UserError, match="scores that are not finite"):
        score(model, bad, batch, groups, "output_norm")
    for family in ("swin", "convit"):
        with pytest.raises(UserError, match="needs a class token in every block"):
            score(pruned_models.create(family), {}, [], {}, "class_attention")


def test_gates_in_training():
    """With open gates, `train`, `rngs` and the rest reach the model."""
    model = pruned_models.create("vit").clone(drop_path_rate=0.5, drop_rate=0.1)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, *model.image_shape)))
    x, groups = x.astype(jnp.float32), find_groups(model)
    variables, rngs = fill(model, x), {"dropout": jax.random.key(0)}
    run = functools.partial(model.apply, train=True, rngs=rngs)
    want = jit_once(run)(variables, x)[0]
    run = functools.partial(gated_apply, groups=groups, train=True, rngs=rngs)
    gated = functools.partial(run, model, gates={})
    np.testing.assert_array_equal(jit_once(gated)(variables, x)[0][0], want)
    half = {"blocks_0/heads": jnp.full((1, groups["blocks_0/heads"].size), 0.5)}
    gated = functools.partial(run, model, gates=half)
    assert jnp.abs(jit_once(gated)(variables, x)[0][0] - want).max() > 1e-4

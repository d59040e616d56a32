"""Shrinking: equal to masking in every family, and to the budget to the last MAC."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pruned_models
import pytest
from model_goldens import jit_once
from quick import sparse
from small_models import apply, fill

from vit_jax_tricks import compress
from vit_jax_tricks.compress.pruning.costs import model_macs, unit_costs
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.stacking import stack_blocks


FAMILIES = list(pruned_models.SMALL)


def images(model, count=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(count, *model.image_shape)), jnp.float32)


def random_plan(groups, *, least=1):
    """Some of each group, another number in each block."""
    rng = np.random.default_rng(1)
    plan = {}
    for name, group in groups.items():
        count = int(rng.integers(least, group.size + 1))
        kept = rng.choice(group.size, count, replace=False)
        plan[name] = tuple(sorted(int(i) for i in kept))
    return plan


@functools.cache
def setting(family):
    """The model, images, variables and groups."""
    model = pruned_models.create(family)
    x = images(model)
    return model, x, fill(model, x), compress.find_groups(model)


def compare(family, atol, least, plan_of=random_plan):
    model, x, variables, groups = setting(family)
    if jax.config.read("jax_enable_x64"):
        model = model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        x, variables = jax.tree.map(lambda a: a.astype(jnp.float64), (x, variables))
    plan = plan_of(groups, least=least)
    small = compress.pruned_model(model, groups, plan)
    variables_small = compress.shrink(variables, groups, plan)
    shapes = jax.eval_shape(small.init, jax.random.key(0), x)
    chex.assert_trees_all_equal_shapes(variables_small, shapes)
    got = jit_once(small.apply)(variables_small, x)

    def masked(variables, x):
        return compress.masked_apply(model, variables, x, groups, plan)

    expected = jit_once(masked)(variables, x)
    whole = apply(model, variables, x)
    chex.assert_trees_all_close(got, expected, atol=atol, rtol=0)
    assert float(jnp.abs(whole[0] - got[0]).max()) > 1e-3  # something was removed
    return model, small


@pytest.mark.parametrize("family", sparse(FAMILIES, every=len(FAMILIES)))
def test_a_shrunk_model_is_the_masked_one(family):
    compare(family, 1e-5, least=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shrunk_model_is_the_masked_one_in_float64(family, x64):
    compare(family, 1e-10, least=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_without_heads(family):
    """The attention of the first block goes, but for the bias of its projection."""

    def plan_of(groups, *, least):
        plan = random_plan(groups, least=least)
        return plan | {next(n for n, g in groups.items() if g.kind == "heads"): ()}

    compare(family, 1e-5, least=1, plan_of=plan_of)


@pytest.mark.parametrize(
    "family", sparse(["vit", "swin v2", "lv_vit", "convit"], every=2)
)
def test_costs_are_exact(family):
    """What the units cost is what the smaller model saves."""
    model, _, _, groups = setting(family)
    costs = unit_costs(model, groups)
    plan = random_plan(groups)
    small = compress.pruned_model(model, groups, plan)
    saved = sum((groups[n].size - len(kept)) * costs[n] for n, kept in plan.items())
    full = model_macs(model)
    assert model_macs(small) == full - saved < full


def test_costs_of_the_published_size():
    """DeiT-S: 4N D d + 2 N^2 d MACs a head, 2 N D a hidden unit."""
    model = create_model("deit_small_patch16_224", scan=True)
    groups = compress.find_groups(model)
    costs = unit_costs(model, groups)
    n, d, h = 197, 384, 64
    assert set(costs.values()) == {4 * n * d * h + 2 * n * n * h, 2 * n * d}
    heads = sum(6 * costs[f"blocks_{i}/heads"] for i in range(12))
    assert heads / model_macs(model) == pytest.approx(0.381, abs=5e-4)


@pytest.fixture(scope="module")
def whole():
    model = pruned_models.create("vit", depth=2)
    x = images(model, 8)
    labels = jnp.arange(8) % 5
    return model, fill(model, x), x, labels


@pytest.mark.parametrize("flops", sparse([0.6, 0.9], every=2))
def test_to_a_budget(whole, flops):
    model, variables, x, labels = whole
    got = compress.prune(model, variables, [(x, labels)], flops=flops)
    assert got.macs == model_macs(got.model) <= flops * got.full_macs
    assert got.macs > (flops - 0.05) * got.full_macs
    logits = jit_once(got.model.apply)(got.variables, x)[0]

    def masked(variables, x):
        return compress.masked_apply(model, variables, x, got.groups, got.plan)[0]

    expected = jit_once(masked)(variables, x)
    chex.assert_trees_all_close(logits, expected, atol=1e-5, rtol=0)
    for name, kept in got.plan.items():
        gone = np.setdiff1d(np.arange(got.groups[name].size), kept)
        if len(gone):  # the least of the scores went
            scores = got.scores[name]
            assert scores[gone].max() <= scores[list(kept)].min()


@pytest.mark.slow
def test_stacked_blocks_are_the_same(whole):
    model, variables, x, labels = whole
    stacked = {k: stack_blocks(v) for k, v in variables.items()}
    one = compress.prune(model, variables, [(x, labels)])
    other = compress.prune(model.clone(scan=True), stacked, [(x, labels)])
    assert one.model == other.model
    chex.assert_trees_all_equal(one.variables, other.variables)


@pytest.mark.slow
def test_again(whole):
    """A pruned model can be pruned further."""
    model, variables, x, labels = whole
    one = compress.prune(model, variables, [(x, labels)], flops=0.8, min_heads=0)
    two = compress.prune(
        one.model, one.variables, [(x, labels)], flops=0.7, min_heads=0
    )
    assert two.macs <= 0.7 * one.macs
    for name, group in two.groups.items():
        assert len(two.plan[name]) <= group.size == len(one.plan[name])


@pytest.mark.slow
def test_of_one_kind_alone(whole):
    model, variables, x, labels = whole
    batch = [(x, labels)]
    got = compress.prune(model, variables, batch, flops=0.9, kinds=["heads"])
    assert got.model.block_hidden is None
    got = compress.prune(model, variables, batch, flops=0.9, kinds=["hidden"])
    assert got.model.block_heads is None
    with pytest.raises(UserError, match="the budget is out of reach"):
        compress.prune(model, variables, batch, flops=0.5, kinds=["heads"])


BAD = {
    "share": (dict(flops=1.5), "flops=1.5: the fraction"),
    "criterion": (dict(criterion="confidense"), 'Did you mean "confidence"'),
    "normalize": (dict(normalize="all"), 'normalize="all" is unknown'),
    "units": (dict(normalize="none", criterion="entropy"), "use gradient or taylor"),
    "kind": (dict(kinds=["head"]), 'kind "head" is unknown'),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit(whole, case):
    options, message = BAD[case]
    with pytest.raises(UserError, match=message):
        compress.prune(*whole[:2], [], **options)


def test_no_batch(whole):
    with pytest.raises(UserError, match="no batch of images"):
        compress.prune(*whole[:2], [])


def test_models_that_cannot_be_pruned():
    for name, fields, message in (
        ("cait_xxs24_224", {}, "CaiT cannot be pruned"),
        ("vit_tiny_patch16_224", {"parallel": 2}, "parallel branches"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "all heads together"),
        ("vit_tiny_patch16_224", {"scale_mlp_norm": True}, "all hidden together"),
        ("vit_tiny_patch16_224", {"block_fn": "parallel_scaling"}, "another block_fn"),
    ):
        with pytest.raises(UserError, match=message):
            compress.find_groups(create_model(name, **fields))

"""Models whose blocks have unequal heads and hidden units, or no heads at all."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pruned_models
import pytest
from model_goldens import jit_once
from small_models import fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.param_names import parameters


FAMILIES = list(pruned_models.SMALL)


def shapes(model):
    images = jnp.zeros((1, *model.image_shape))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return {name: leaf.shape for name, leaf in parameters(params).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_has_its_own_sizes(family):
    full = pruned_models.create(family)
    fields = pruned_models.kept(family, (2, 1, 0), (7, 5, 1))
    model = pruned_models.create(family, **fields)
    before, after = shapes(full), shapes(model)
    first, second, last = (
        ("layers_0/blocks_0", "layers_0/blocks_1", "layers_1/blocks_1")
        if family.startswith("swin")
        else ("blocks_0", "blocks_1", "blocks_2")
    )
    dim = before[f"{first}/attn/proj/kernel"][1]  # the width of a head stays
    assert after[f"{first}/attn/proj/kernel"][:2] == (2, dim)
    assert after[f"{second}/attn/proj/kernel"][:2] == (1, dim)
    assert [name for name in after if name.startswith(f"{last}/attn/")] == [
        f"{last}/attn/proj/bias"
    ]
    for block, hidden in ((first, 7), (second, 5), (last, 1)):
        assert after[f"{block}/mlp/fc2/kernel"][0] == hidden
    assert {n for n in before if not n.startswith(f"{last}/attn/")} <= set(after)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_and_trains(family):
    fields = pruned_models.kept(family, (2, 1, 0), (7, 5, 1))
    model = pruned_models.create(family, **fields)
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, *model.image_shape)), jnp.float32
    )
    variables = fill(model, images)
    rngs = {"dropout": jax.random.key(0)}

    def loss(params):
        given = {**variables, "params": params}
        (logits, _), _ = model.apply(
            given, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return jax.nn.log_softmax(logits)[:, 0].sum()

    grads = jit_once(jax.grad(loss))(variables["params"])
    logits = jit_once(model.apply)(variables, images)[0]
    chex.assert_tree_all_finite((logits, grads))


def test_equal_blocks_are_the_whole_model():
    """To the bit, and with scan, whose blocks must be equal."""
    fields = {"block_heads": (3, 3, 3), "block_hidden": (96,) * 3}
    full = pruned_models.create("vit")
    model = pruned_models.create("vit", **fields)
    images = jnp.ones((1, *model.image_shape))
    key = jax.random.key(0)
    ours, theirs = (jit_once(m.init_with_output)(key, images) for m in (model, full))
    chex.assert_trees_all_equal(ours, theirs)
    scanned = pruned_models.create("vit", scan=True, **fields)
    assert shapes(scanned)["blocks/attn/proj/kernel"] == (3, 3, 8, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_and_back(family):
    """As `model.json` of a workdir keeps the fields."""
    name, own = pruned_models.SMALL[family]
    fields = {**own, **pruned_models.kept(family, (2, 1, 0), (7, 5, 1))}
    model = create_model(name, 5, **fields)
    assert model == create_model(name, 5, **json.loads(json.dumps(fields)))


BAD = {
    "too few": (dict(block_heads=(1, 1)), "block_heads=.* does not fit 3 blocks"),
    "negative": (dict(block_heads=(1, -1, 1)), "must be 0 or more"),
    "no hidden unit": (dict(block_hidden=(4, 0, 4)), "must be 1 or more"),
    "scan": (dict(block_heads=(3, 2, 3), scan=True), "use scan=False"),
    "a number": (dict(block_heads=2), "block_heads=2 is a int; it must be"),
    "shared positions": (
        dict(block_heads=(3, 2, 3), pos_embed="rel_bias", shared_rel_pos=True),
        "all blocks share positions",
    ),
    "mixed rotations": (
        dict(block_heads=(3, 2, 3), pos_embed="rope_mixed"),
        "with rope_mixed all blocks",
    ),
    "one product": (
        dict(block_hidden=(9, 9, 9), block_fn="parallel_scaling"),
        'needs another block_fn than "parallel_scaling"',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit(case):
    fields, message = BAD[case]
    fields = {"num_heads": 3, **fields}
    if fields.get("pos_embed") == "rope_mixed":
        fields |= {"embed_dim": 24}
    with pytest.raises(UserError, match=message):
        pruned_models.create("vit", **fields)


def test_stages_that_do_not_fit():
    with pytest.raises(UserError, match="does not fit depths"):
        pruned_models.create("swin", block_heads=((1, 1), (1,)))
    with pytest.raises(UserError, match="scan=True stacks equal blocks"):
        pruned_models.create("swin", block_heads=((3, 3), (2, 3)), scan=True)
    scanned = pruned_models.create("swin", block_heads=((3, 3), (2, 2)), scan=True)
    assert shapes(scanned)["layers_1/blocks/attn/proj/kernel"][:2] == (2, 2)


def test_local_blocks_alone_are_stacked():
    model = pruned_models.create("convit", block_heads=(2, 2, 1), scan=True)
    assert shapes(model)["blocks/attn/proj/kernel"][:2] == (2, 2)
    with pytest.raises(UserError, match="scan=True stacks equal blocks"):
        pruned_models.create("convit", block_heads=(2, 1, 1), scan=True)

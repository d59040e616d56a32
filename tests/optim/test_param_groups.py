"""Decay and layer-wise rates of real models against timm's parameter groups."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import create_model
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.optim.param_groups import describe, factors


with np.load(
    pathlib.Path(__file__).parents[1] / "golden/train/param_groups.npz"
) as file:
    GOLDEN = json.loads(file["json_utf8"].tobytes().decode())

MODELS = (
    "deit_small_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_base_patch16_224",
)
LAYER_DECAY = ("deit_small_patch16_224", "vit_base_patch16_224")
each_layout = pytest.mark.parametrize("scan", [False, True], ids=["apart", "stacked"])


def our_name(reference):
    """`blocks.3.norm1.weight` as `blocks_3/norm1/scale`."""
    name = re.sub(r"\.(\d+)(?=\.)", r"_\1", reference).replace(".", "/")
    norm = re.search(r"norm\d?/weight$", name)
    return name.replace("/weight", "/scale" if norm else "/kernel")


@functools.cache
def shapes(model, scan):
    net = create_model(model, scan=scan)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)["params"]


@each_layout
@pytest.mark.parametrize("model", MODELS)
def test_decay_split_is_timms(model, scan):
    rows = describe(shapes(model, scan))
    split = GOLDEN["weight_decay_split"][model]
    for kind, factor in (("decay", 1.0), ("no_decay", 0.0)):
        ours = sorted(row.name for row in rows if row.decay == factor)
        assert ours == sorted(map(our_name, split[kind]))


@each_layout
@pytest.mark.parametrize("model", LAYER_DECAY)
def test_layer_decay_is_timms(model, scan):
    case = GOLDEN["layer_decay"][model]
    rows = {
        row.name: row
        for row in describe(shapes(model, scan), layer_decay=case["layer_decay"])
    }
    seen = set()
    for group in case["groups"]:
        for name in map(our_name, group["params"]):
            assert rows[name].lr == pytest.approx(group["lr_scale"], rel=1e-12)
            assert rows[name].decay * 0.05 == group["weight_decay"]
            seen.add(name)
    assert seen == set(rows)


def test_layer_decay_of_stages_is_timms():
    """Swin by names alone: merging belongs to the first block of its stage."""
    case = GOLDEN["layer_decay"]["swin_tiny_patch4_window7_224"]
    want = {
        our_name(name): group["lr_scale"]
        for group in case["groups"]
        for name in group["params"]
    }
    params = {name: np.zeros((2, 2)) for name in want}
    rows = describe(params, layer_decay=case["layer_decay"])
    assert {row.name: row.lr for row in rows} == pytest.approx(want, rel=1e-12)


@each_layout
def test_rules_reach_single_layers_in_either_layout(scan):
    rows = describe(
        shapes("deit_small_patch16_224", scan),
        rules=[
            (r"blocks_[0-5]/.*", dict(freeze=True)),
            (r"head/.*", dict(lr_mult=10.0, wd_mult=0.5)),
        ],
    )
    for row in rows:
        frozen = re.match(r"blocks_[0-5]/", row.name)
        head = row.name.startswith("head/")
        assert row.lr == (0.0 if frozen else 10.0 if head else 1.0)
        if row.name == "head/kernel":
            assert row.decay == 0.5
    assert len(rows) == len({row.name for row in rows}) == 152


@each_layout
def test_matrices_of_a_block(scan):
    table = factors(shapes("deit_small_patch16_224", scan))
    block = "blocks" if scan else "blocks_0"
    first = int(scan)
    qkv = table[f"{block}/attn/qkv/kernel"]
    assert (qkv.inputs, qkv.outputs) == ((first,), (first + 2, first + 3))
    proj = table[f"{block}/attn/proj/kernel"]
    assert (proj.inputs, proj.outputs) == ((first, first + 1), (first + 2,))
    patch = table["patch_embed/proj/kernel"]
    assert (patch.inputs, patch.outputs) == ((0, 1, 2), (3,))
    matrices = {p for p, leaf in table.items() if leaf.hidden_matrix}
    modules = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    blocks = ["blocks"] if scan else [f"blocks_{i}" for i in range(12)]
    assert matrices == {f"{b}/{m}/kernel" for b in blocks for m in modules}


def test_layer_decay_needs_blocks():
    with pytest.raises(UserError, match="needs a model with blocks"):
        factors({"head": {"kernel": np.zeros((2, 2))}}, layer_decay=0.5)
    assert factors({"head": {"kernel": np.zeros((2, 2))}}, layer_decay=1.0)

"""Any ViT takes any position encoding by one field."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.irpe import Irpe, IrpeScores, IrpeValues
from vit_jax_tricks.models.positions import Positions, parse
from vit_jax_tricks.pretrained.export import reference_arrays
from vit_jax_tricks.pretrained.load import load_arrays


pytestmark = pytest.mark.slow


SMALL = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 2}
SMALL |= {"num_heads": 3, "mlp_ratio": 1.0, "reg_tokens": 1}
KEY = jax.random.key(0)
ENCODINGS = [
    "learn",
    "sincos2d",
    "sincos2d_moco",
    "rel_bias",
    "rel_bias_tf",
    "rel_mlp",
    "log_cpb",
    "convit",
    "irpe_ctx_product_shared_k",
    "irpe_ctx_cross_qkv",
    "irpe_bias_euclidean_qk",
    "irpe_bias_quant_shared_k",
    "rope_axial",
    "rope_mixed",
    "rope_dinov3",
    "learn+rope_axial",
    "sincos2d_mae+rel_bias+rope_mixed",
]


def make(pos_embed, **more):
    name = "deit_tiny_distilled_patch16_224"
    return create_model(name, 5, pos_embed=pos_embed, **{**SMALL, **more})


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 16, 24, 3))


def shuffled(images):
    """The same patches at other places."""
    patches = images.reshape(2, 2, 8, 3, 8, 3).swapaxes(2, 3).reshape(2, 6, 8, 8, 3)
    moved = patches[:, np.array([3, 0, 5, 1, 2, 4])]
    return moved.reshape(2, 2, 3, 8, 8, 3).swapaxes(2, 3).reshape(images.shape)


@pytest.mark.parametrize("pos_embed", ENCODINGS)
def test_every_encoding_tells_places_apart(pos_embed, images):
    model = make(pos_embed, scan=True)
    variables = fill(model, images)
    y = [apply(model, variables, x)[0] for x in (images, shuffled(images))]
    assert jnp.abs(y[0] - y[1]).max() > 1e-4


@pytest.mark.parametrize(
    "pos_embed", ["rel_mlp", "convit", "irpe_ctx_cross_qkv", *ENCODINGS[-2:]]
)
def test_scanned_blocks_equal_the_unrolled_ones(pos_embed, images):
    model = make(pos_embed)
    variables = fill(model, images)
    stacked = {"params": stack_blocks(variables["params"])}
    scanned = model.clone(scan=True, remat=True)
    y = [apply(m, v, images)[0] for m, v in ((model, variables), (scanned, stacked))]
    chex.assert_trees_all_close(*y, atol=1e-5, rtol=0)


def test_without_encoding_places_do_not_matter(images):
    for name in ("none", ""):
        model = make(name)
        variables = fill(model, images)
        y = [apply(model, variables, x)[0] for x in (images, shuffled(images))]
        chex.assert_trees_all_close(*y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pos_embed", ["convit", "irpe_ctx_cross_qkv"])
def test_training_reaches_every_parameter(pos_embed, images):
    model = make(pos_embed, scan=True)
    variables = fill(model, images)

    def loss(params):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": KEY}
        )
        return jax.nn.log_softmax(logits)[:, 0].sum()

    grads = jit_once(jax.grad(loss))(variables["params"])
    chex.assert_tree_all_finite(grads)
    still = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(grads))
        if not leaf.any()
    }
    assert still <= {"head_dist/kernel", "head_dist/bias"}  # no part in this loss


@pytest.mark.parametrize("pos_embed", ["rel_bias", "irpe_ctx_product_shared_k"])
def test_bfloat16_is_near_float32(pos_embed, images):
    """Rounding of 2**-9 in every layer: within a tenth of the logits' deviation."""
    model = make(pos_embed)
    variables = fill(model, images)
    full = apply(model, variables, images)[0]
    half = apply(model.clone(dtype=jnp.dtype("bfloat16")), variables, images)[0]
    assert float(jnp.abs(half - full).max() / full.std()) < 0.1


@pytest.mark.parametrize("pos_embed", ENCODINGS)
def test_weights_leave_and_come_back_under_reference_names(pos_embed, images):
    model = make(pos_embed)
    variables = fill(model, images)
    arrays = reference_arrays(variables, "deit_tiny_distilled_patch16_224")
    again, report = load_arrays(model, arrays)
    assert not report.reset
    assert not report.unused
    chex.assert_trees_all_equal(variables, again)


def test_key_names_of_the_references(images):
    names = {
        "rel_bias": "blocks.1.attn.rel_pos.relative_position_bias_table",
        "rel_mlp": "blocks.1.attn.rel_pos.mlp.fc2.weight",
        "irpe_ctx_product_shared_k": "blocks.1.attn.rpe_k.lookup_table_weight",
        "irpe_ctx_cross_qkv": "blocks.0.attn.rpe_v.rp_cols.lookup_table_weight",
        "irpe_bias_euclidean_qk": "blocks.0.attn.rpe_q.lookup_table_bias",
        "rope_mixed": "rope.freqs",
        "convit": "blocks.0.attn.gating_param",
    }
    for pos_embed, key in names.items():
        variables = jax.eval_shape(make(pos_embed).init, KEY, images)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)
        assert key in reference_arrays(zeros, "deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize("pos_embed", ["learn+rope_axial", "rope_mixed"])
def test_rotation_follows_the_patches_that_dropout_keeps(pos_embed, images):
    """Keeping all patches in another order changes nothing."""
    model = make(pos_embed, patch_drop_rate=1e-17)
    variables = fill(model, images)
    dropped = apply(model, variables, images, 3, train=True)[1]["tokens"]
    plain = apply(make(pos_embed), variables, images, 3, train=True)[1]["tokens"]
    assert jnp.abs(dropped - plain).max() > 1e-3
    order = np.argsort(dropped[:, 3:, 0], axis=1), np.argsort(plain[:, 3:, 0], axis=1)
    for b in range(2):
        np.testing.assert_allclose(
            dropped[b, 3:][order[0][b]], plain[b, 3:][order[1][b]], atol=1e-5
        )
    half = make(pos_embed, patch_drop_rate=0.5)
    assert apply(half, variables, images, train=True)[1]["tokens"].shape[1] == 6


def test_mixed_rotation_is_the_block_s_own(images):
    model = make("rope_mixed", scan=True)
    variables = fill(model, images)
    base = apply(model, variables, images)[0]
    frequencies = variables["params"]["rope"]["freqs"]
    assert frequencies.shape == (2, 2, 3, 4)
    for block in range(2):
        changed = jax.tree.map(lambda leaf: leaf, variables)
        changed["params"]["rope"] = {"freqs": frequencies.at[:, block].add(0.5)}
        assert jnp.abs(apply(model, changed, images)[0] - base).max() > 1e-4


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("contextual", [False, True])
def test_attention_with_irpe_is_the_equation(shared, contextual):
    grid, h, g, n = (2, 3), 4, 2, 7
    irpe = Irpe(grid, "product", 1.2, 1, contextual, shared)
    layer = Attention(
        g,
        h,
        rel_pos=lambda **kw: IrpeScores(irpe, on="qk", **kw),
        rel_values=(lambda **kw: IrpeValues(irpe, **kw)) if contextual else None,
    )
    x = jax.random.normal(KEY, (1, n, 8))
    variables = layer.init(KEY, x, False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        variables["params"],
    )
    y = layer.apply({"params": params}, x, False)[0]
    qkv = np.einsum("nd,dsgh->sngh", x[0], params["qkv"]["kernel"])
    q, k, v = qkv + params["qkv"]["bias"][:, None]
    buckets, _ = functional.irpe_buckets(grid, "product", 1.2, prefix=1)
    name = "lookup_table_weight" if contextual else "lookup_table_bias"
    on_q, on_k = (params["rel_pos"][f"rpe_{on}"][name] for on in "qk")
    out = np.zeros((n, g, h))
    for a in range(g):
        f = 0 if shared else a
        logits = q[:, a] @ k[:, a].T / 2
        for i, j in np.ndindex(n, n):
            there, back = buckets[i, j], buckets[j, i]
            if contextual:
                logits[i, j] += q[i, a] @ on_k[f, :, there] / 2
                logits[i, j] += k[j, a] @ on_q[f, :, back] / 2
            else:
                logits[i, j] += on_k[f, there] + on_q[f, back]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        out[:, a] = weights @ v[:, a]
        if contextual:
            table = params["rel_values"]["rpe_v"]["lookup_table_weight"]
            for i, j in np.ndindex(n, n):
                out[i, a] += weights[i, j] * table[f, buckets[i, j]]
    expected = np.einsum("ngh,ghd->nd", out, params["proj"]["kernel"])
    np.testing.assert_allclose(y, expected + params["proj"]["bias"], atol=2e-4)


def test_names_are_read_by_group():
    assert parse("none") == parse("") == Positions()
    assert parse("learn") == Positions("learn")
    both = parse("rope_mixed+sincos2d_mae")
    assert dataclasses.astuple(both) == ("sincos2d_mae", None, "rope_mixed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pos_embed": "learned"}, 'Did you mean "learn"'),
        ({"pos_embed": "rope_axil"}, "rope_axial"),
        ({"pos_embed": "learn+sincos2d"}, "two absolute encodings"),
        ({"pos_embed": "rel_bias+convit"}, "two relative encodings"),
        ({"pos_embed": "irpe_ctx_product_shared_"}, "no encoding"),
        ({"pos_embed": "irpe_bias_product_v"}, "irpe_ctx_"),
        ({"pos_embed": "rope_axial", "num_heads": 4}, "divisible by 4; got 6"),
        ({"pos_embed": "sincos2d", "embed_dim": 27}, "embed_dim divisible by 4"),
        ({"pos_embed": "rel_bias", "patch_drop_rate": 0.5}, "patch_drop_rate=0"),
        ({"pos_embed": "learn", "shared_rel_pos": True}, "rel_bias, "),
        ({"pos_embed": "convit", "qk_norm": True}, "qk_norm=False"),
        ({"pos_embed": "convit+rope_axial"}, "does not go with rope_axial"),
        ({"rope_grid_indexing": "yx"}, "ij, xy"),
        ({"irpe_ratio": 0.0}, "irpe_ratio=0.0 must be over 0"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        make(**{"pos_embed": "learn", **overrides})
    assert "\n" not in str(error.value)

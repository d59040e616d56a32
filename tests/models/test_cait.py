"""Properties of CaiT beyond its reference values."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, list_models, stack_blocks
from vit_jax_tricks.models.cait import CaiT
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.optim.param_groups import describe, factors
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
KEY = jax.random.key(0)


def make(**overrides):
    return create_model("cait_xxs24_224", 10, **TINY | overrides)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


@pytest.fixture(scope="module")
def params(images):
    return fill(make(), images)["params"]


def test_the_published_sizes_are_registered():
    assert len(list_models("cait_*")) == 10
    model = create_model("cait_m48_448")
    assert (model.depth, model.embed_dim, model.img_size) == (48, 768, 448)
    assert model.init_values == 1e-6
    assert create_model("cait_xs24_384").num_heads == 6


def test_heads_that_do_not_talk_are_plain_attention():
    rng = np.random.default_rng(0)
    q, k, v = jnp.asarray(rng.standard_normal((3, 2, 5, 4, 8), np.float32))
    same = partial(functional.mix_heads, kernel=jnp.eye(4), bias=jnp.zeros(4))
    y = functional.talking_heads_attention(q, k, v, before=same, after=same)
    chex.assert_trees_all_close(y, functional.attention(q, k, v), atol=1e-6)


def test_mixing_goes_from_the_kernel_s_rows_to_its_columns():
    x = jnp.arange(2.0)[None, :, None, None] + 1
    kernel = jnp.array([[0.0, 10.0, 0.0], [0.0, 0.0, 100.0]])
    mixed = functional.mix_heads(x, kernel, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(mixed[0, :, 0, 0], [1, 10, 200])


def test_class_attention_leaves_the_patches_alone(images, params):
    model = make()
    tokens = apply(model, {"params": params}, images)[1]["tokens"]
    without = {k: v for k, v in params.items() if "token_only" not in k}
    short = model.clone(depth_token_only=0)
    other = apply(short, {"params": without}, images)[1]["tokens"]
    chex.assert_trees_all_close(tokens[:, 1:], other[:, 1:], atol=1e-6)
    assert jnp.abs(tokens[:, 0] - other[:, 0]).max() > 1e-2


def test_drop_path_has_one_rate_and_spares_class_attention(images, params):
    model = make(drop_path_rate=1.0)
    dropped = apply(model, {"params": params}, images, train=True)[1]["tokens"]
    rest = {k: v for k, v in params.items() if k not in ("blocks_0", "blocks_1")}
    empty = make(depth=0)
    expected = apply(empty, {"params": rest}, images)[1]["tokens"]
    chex.assert_trees_all_close(dropped, expected, atol=1e-6)


def test_remat_gives_the_same_training_step(images, params):
    model = make(scan=True, depth_token_only=1, drop_path_rate=0.5, proj_drop_rate=0.1)

    def loss(params, model):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": KEY}
        )
        return (logits**2).sum()

    params = {k: v for k, v in params.items() if k != "blocks_token_only_1"}
    params = stack_blocks(params)
    grad = jit_once(jax.grad(loss), static_argnums=1)
    plain, again = grad(params, model), grad(params, model.clone(remat=True))
    chex.assert_tree_all_finite(plain)
    chex.assert_trees_all_close(plain, again, atol=1e-4, rtol=1e-4)


def test_scan_equals_the_unrolled_model_and_stacks_the_patch_blocks(images, params):
    scanned = make(scan=True)
    stacked = stack_blocks(params)
    shapes = jax.eval_shape(scanned.init, KEY, images)["params"]
    chex.assert_trees_all_equal_shapes(stacked, shapes)
    assert stacked["blocks"]["ls1"]["gamma"].shape == (2, 32)
    assert "blocks_token_only_1" in stacked
    chex.assert_trees_all_close(
        apply(scanned, {"params": stacked}, images),
        apply(make(), {"params": params}, images),
        atol=1e-5,
        rtol=0,
    )


def test_a_mesh_changes_neither_values_nor_drops(images, params):
    model = make(drop_path_rate=0.5)
    run = jit_once(partial(model.apply, train=True, rngs={"dropout": KEY}))
    alone = run({"params": params}, images)[0]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        shardings = state_shardings(params, mesh)
        attn = shardings["blocks_token_only_0"]["attn"]
        assert attn["q"]["kernel"].spec[-2] == "tensor"
        placed = jax.device_put(params, shardings)
        spread = run({"params": placed}, images)[0]
    np.testing.assert_allclose(spread, alone, atol=1e-5)


@pytest.mark.parametrize(
    "rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"]
)
def test_every_dropout_acts_in_training(rate, images, params):
    model = make(depth=1, **{rate: 0.5})
    variables = {"params": {k: v for k, v in params.items() if k != "blocks_1"}}
    first, second = (apply(model, variables, images, s, train=True)[0] for s in (0, 1))
    assert jnp.abs(first - second).max() > 1e-4


def test_options(images):
    model = make(
        global_pool="avg",
        depth=1,
        qkv_bias=False,
        mlp_ratio_token_only=2.0,
        depth_token_only=1,
    )
    variables = fill(model, images)
    params = variables["params"]
    assert params["blocks_token_only_0"]["mlp"]["fc1"]["kernel"].shape == (32, 64)
    assert params["blocks_token_only_0"]["attn"]["q"].keys() == {"kernel"}
    assert params["blocks_0"]["attn"]["qkv"].keys() == {"kernel"}
    _, aux = apply(model, variables, images)
    chex.assert_trees_all_close(
        aux["features"], aux["tokens"][:, 1:].mean(1), atol=1e-6
    )


def test_initialisation_is_the_reference_s(images):
    params = jit_once(make(embed_dim=128, depth=1).init)(KEY, images)["params"]
    block, last = params["blocks_0"], params["blocks_token_only_0"]
    for leaf in (
        block["attn"]["qkv"]["kernel"],
        block["mlp"]["fc1"]["kernel"],
        last["attn"]["k"]["kernel"],
        params["pos_embed"],
    ):
        assert leaf.std() == pytest.approx(0.02, rel=0.05)
    for mix in ("proj_l", "proj_w"):
        assert 0.01 < block["attn"][mix]["kernel"].std() < 0.03
        assert not block["attn"][mix]["bias"].any()
    for gamma in (block["ls1"], block["ls2"], last["ls1"], last["ls2"]):
        np.testing.assert_allclose(gamma["gamma"], 1e-5)


def test_class_attention_learns_at_the_rates_of_the_last_blocks(params):
    """As timm groups them: here three blocks and two of class attention."""
    params = {**params, "blocks_2": params["blocks_1"]}
    rows = {
        row.name: row.lr for row in describe(params, layer_decay=0.5, roles=CaiT.roles)
    }
    for i, scale in enumerate((0.125, 0.25, 0.5)):
        assert rows[f"blocks_{i}/attn/proj_l/kernel"] == scale
    for j, scale in enumerate((0.25, 0.5)):
        assert rows[f"blocks_token_only_{j}/attn/q/kernel"] == scale
    assert rows["cls_token"] == rows["pos_embed"] == 0.0625
    assert (rows["norm/scale"], rows["head/kernel"]) == (0.5, 1.0)
    leaf = factors(params, roles=CaiT.roles)["blocks_token_only_0/attn/q/kernel"]
    assert leaf.hidden_matrix
    assert (leaf.inputs, leaf.outputs) == ((0,), (1, 2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_heads": 5}, "not divisible by num_heads=5"),
        ({"depth_token_only": -1}, "depth_token_only=-1 is too small"),
        ({"mlp_ratio_token_only": 0.01}, "mlp_ratio_token_only=0.01 leaves no"),
        ({"img_size": 30}, "not divisible by patch_size=8"),
        ({"act_layer": "relu6"}, "act_layer='relu6' is unknown"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message):
        make(**overrides)

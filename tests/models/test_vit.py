"""Properties of the Vision Transformer beyond its reference values."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.sharding import make_mesh, state_shardings


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
SCANNED = {**SMALL, "scan": True}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


@pytest.fixture(scope="module")
def model():
    return create_model("deit_tiny_distilled_patch16_224", 10, **SMALL)


@pytest.fixture(scope="module")
def variables(model, images):
    return fill(model, images)


def test_jit_equals_eager(model, variables, images):
    eager = model.apply(variables, images)
    jitted = jax.jit(model.apply)(variables, images)
    chex.assert_trees_all_close(eager, jitted, atol=1e-5, rtol=0)


def test_vmap_equals_a_loop_over_images(model, variables, images):
    def one(image):
        return model.apply(variables, image[None])[0][0]

    one = jit_once(one)
    looped = jnp.stack([one(image) for image in images])
    chex.assert_trees_all_close(jax.vmap(one)(images), looped, atol=1e-5, rtol=0)
    batch = apply(model, variables, images)[0]
    chex.assert_trees_all_close(batch, looped, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_scan_and_remat_equal_the_unrolled_model(remat, model, variables, images):
    def loss(params, model):
        return (model.apply({"params": params}, images)[0] ** 2).sum()

    params = variables["params"]
    scanned = model.clone(scan=True, remat=remat)
    chex.assert_trees_all_close(
        apply(scanned, {"params": stack_blocks(params)}, images),
        apply(model, variables, images),
        atol=1e-5,
        rtol=0,
    )
    expected = jit_once(jax.grad(loss), static_argnums=1)(params, model)
    grads = jit_once(jax.grad(loss), static_argnums=1)(stack_blocks(params), scanned)
    chex.assert_trees_all_close(unstack_blocks(grads), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_remat_gives_the_same_training_step(model, variables, images):
    def loss(params, model):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": KEY}
        )
        return (logits**2).sum()

    plain = model.clone(drop_path_rate=0.5, scan=True)
    params = stack_blocks(variables["params"])
    grad = jit_once(jax.grad(loss), static_argnums=1)
    chex.assert_trees_all_close(
        grad(params, plain.clone(remat=True)),
        grad(params, plain),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_mesh_changes_neither_values_nor_drops(model, variables, images):
    model = model.clone(scan=True, drop_path_rate=0.5, proj_drop_rate=0.1)
    params = stack_blocks(variables["params"])
    run = partial(model.apply, train=True, rngs={"dropout": KEY})
    alone = jit_once(run)({"params": params}, images)[0]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, state_shardings(params, mesh))
        spread = jit_once(run)({"params": placed}, images)[0]
    np.testing.assert_allclose(spread, alone, atol=1e-5)


def test_scanned_initialisation_has_the_stacked_shapes(model, images):
    shapes = jax.eval_shape(model.init, KEY, images)["params"]
    scanned = jax.eval_shape(model.clone(scan=True).init, KEY, images)["params"]
    chex.assert_trees_all_equal_shapes(scanned, jax.eval_shape(stack_blocks, shapes))


def test_stacking_there_and_back_is_the_identity(variables):
    params = variables["params"]
    stacked = stack_blocks(params)
    chex.assert_trees_all_equal(unstack_blocks(stacked), params)
    chex.assert_trees_all_equal(stack_blocks(stacked), stacked)
    chex.assert_trees_all_equal(unstack_blocks(params), params)


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_drops_whole_samples_and_later_blocks_more_often(scan, images):
    model = create_model(
        "deit_tiny_patch16_224", 10, **SMALL | {"drop_path_rate": 1.0, "scan": scan}
    )
    one_block = model.clone(depth=1, scan=False)
    params = unstack_blocks(fill(model, images)["params"])
    params = stack_blocks(params) if scan else params
    trained = apply(model, {"params": params}, images, train=True)[1]["tokens"]
    params = unstack_blocks(params)
    # Rates 0, 1/2, 1. Dropping blocks 1 and 2 leaves block 0 alone.
    first_only = {k: v for k, v in params.items() if k not in ("blocks_1", "blocks_2")}
    alone = apply(one_block, {"params": first_only}, images)[1]["tokens"]
    two = model.clone(depth=2, scan=False)
    both = {k: v for k, v in params.items() if k != "blocks_2"}
    undropped = apply(two, {"params": both}, images)[1]["tokens"]
    same = jnp.abs(trained - alone).max((1, 2)) < 1e-5
    differs = jnp.abs(trained - undropped).max((1, 2)) > 1e-6
    assert bool(same.any())
    assert not bool(same.all())
    assert bool(differs.all())


def test_constant_drop_path_also_drops_the_first_block(images):
    model = create_model(
        "deit3_small_patch16_224", 10, **SMALL | {"drop_path_rate": 1.0}
    )
    variables = fill(model, images)
    kept_nothing = apply(model, variables, images, train=True)[1]["tokens"]
    none = model.clone(depth=0)
    plain = {k: v for k, v in variables["params"].items() if "blocks" not in k}
    expected = apply(none, {"params": plain}, images)[1]["tokens"]
    chex.assert_trees_all_close(kept_nothing, expected, atol=1e-6, rtol=0)


def test_patch_dropout_keeps_the_prefix_and_shortens_training_only(images):
    model = create_model(
        "deit_tiny_distilled_patch16_224", 10, **SCANNED | {"patch_drop_rate": 0.5}
    )
    variables = fill(model, images)
    _, aux = apply(model, variables, images, train=True)
    assert aux["tokens"].shape == (4, 2 + 8, 32)
    assert apply(model, variables, images)[1]["tokens"].shape == (4, 2 + 16, 32)


@pytest.mark.parametrize(
    "rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"]
)
def test_every_dropout_acts_in_training_only(rate, images):
    model = create_model("deit_tiny_patch16_224", 10, **SCANNED | {rate: 0.5})
    variables = fill(model, images)

    @partial(jit_once, static_argnums=0)
    def run(train, seed):
        key = jax.random.key(seed)
        return model.apply(variables, images, train=train, rngs={"dropout": key})[0]

    assert jnp.abs(run(True, 0) - run(True, 1)).max() > 1e-4
    chex.assert_trees_all_equal(run(True, 0), run(True, 0))
    chex.assert_trees_all_equal(run(False, 0), run(False, 1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(dtype, model, variables, images):
    """Nine roundings in sequence of 2**-9 (bfloat16) on logits of order one."""
    half = model.clone(dtype=jnp.dtype(dtype), drop_path_rate=0.1, proj_drop_rate=0.1)
    full = apply(model, variables, images)[0]
    logits, aux = apply(half, variables, images)
    assert logits.dtype == jnp.float32
    assert aux["tokens"].dtype == dtype
    error = jnp.abs(logits - full).max() / full.std()
    assert error < {"bfloat16": 0.05, "float16": 0.01}[dtype]
    trained, _ = apply(half, variables, images, train=True)
    assert jnp.isfinite(trained).all()


def test_gradients_are_finite_for_extreme_images(model, variables):
    def loss(params, images):
        logits, _ = model.apply({"params": params}, images)
        return jax.nn.log_softmax(logits)[:, 0].sum()

    grad = jit_once(jax.grad(loss))
    for value in (0.0, 1e4, -1e4):
        grads = grad(variables["params"], jnp.full((2, 32, 32, 3), value))
        chex.assert_tree_all_finite(grads)


def test_initialisation_is_the_reference_s():
    """timm and DeiT: N(0, 0.02) linear layers, PyTorch's default for the patches."""
    model = create_model("deit3_small_patch16_224", depth=1, reg_tokens=64)
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.jit(model.init)(KEY, images)["params"]
    block = params["blocks_0"]
    for kernel in (
        block["attn"]["qkv"]["kernel"],
        block["attn"]["proj"]["kernel"],
        block["mlp"]["fc1"]["kernel"],
        block["mlp"]["fc2"]["kernel"],
        params["head"]["kernel"],
        params["pos_embed"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.02)
        assert abs(kernel.mean()) < 2e-4
        assert jnp.abs(kernel).max() > 0.06  # not cut at two standard deviations
    bound = (16 * 16 * 3) ** -0.5
    for leaf in jax.tree.leaves(params["patch_embed"]):
        assert leaf.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert jnp.abs(leaf).max() <= bound
    for token in (params["cls_token"], params["reg_token"]):
        assert token.std() == pytest.approx(1e-6, rel=0.15)
    np.testing.assert_allclose(block["ls1"]["gamma"], 1e-6)
    for layer in (block["attn"]["qkv"], block["mlp"]["fc1"], params["head"]):
        assert not layer["bias"].any()
    assert (block["norm1"]["scale"] == 1).all()


def test_distilled_logits_are_the_mean_of_both_heads(model, variables, images):
    logits, aux = apply(model, variables, images)
    mean = (aux["logits_cls"] + aux["logits_dist"]) / 2
    chex.assert_trees_all_equal(logits, mean)
    assert jnp.abs(aux["logits_cls"] - aux["logits_dist"]).max() > 1e-3


def test_without_classes_the_features_are_the_logits(images):
    model = create_model("vit_tiny_patch16_224", 0, **SCANNED)
    variables = fill(model, images)
    logits, aux = apply(model, variables, images)
    chex.assert_trees_all_equal(logits, aux["features"])
    assert "head" not in variables["params"]


def test_the_stem_s_statistics_move_in_training_only(images):
    model = create_model(
        "deit_small_patch16_LS", 10, **SCANNED | {"stem": "hmlp", "patch_size": 16}
    )
    variables = fill(model, images)
    old = variables["batch_stats"]["patch_embed"]["norm0"]
    _, new = apply(model, variables, images, train=True, mutable=["batch_stats"])
    kernel, bias = (
        variables["params"]["patch_embed"]["conv0"][k] for k in ("kernel", "bias")
    )
    conv = (
        jax.lax.conv_general_dilated(
            images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        + bias[None, None, None]
    )
    stats = new["batch_stats"]["patch_embed"]["norm0"]
    mean, unbiased = conv.mean((0, 1, 2)), conv.var((0, 1, 2), ddof=1)
    for name, new in (("mean", mean), ("var", unbiased)):
        np.testing.assert_allclose(stats[name], 0.9 * old[name] + 0.1 * new, atol=1e-6)


def test_a_subclass_overrides_one_step(variables, images):
    """The largest patch token instead of the class token, on the same parameters."""

    class Largest(VisionTransformer):
        def reduce(self, x, train):
            return x[:, self.prefix_tokens :].max(1)

    largest = Largest(**SMALL, num_classes=10, distilled=True)
    aux = apply(largest, variables, images)[1]
    chex.assert_trees_all_equal(aux["features"], aux["tokens"][:, 2:].max(1))


def test_rectangular_images():
    model = create_model("vit_tiny_patch16_224", 10, **SCANNED | {"img_size": [32, 16]})
    images = jnp.zeros((2, 32, 16, 3))
    variables = fill(model, images)
    assert variables["params"]["pos_embed"].shape == (1, 1 + 8, 32)
    with pytest.raises(UserError, match=r"\(16, 32, 3\).*\(32, 16, 3\)"):
        model.apply(variables, images.transpose(0, 2, 1, 3))
    with pytest.raises(UserError, match="images are uint8, the model expects"):
        model.apply(variables, images.astype(jnp.uint8))

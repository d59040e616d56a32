"""Properties of ConViT beyond its reference values."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convit_goldens import SMALL
from goldens import load_golden, reference_state
from model_goldens import jit_once
from small_models import apply, fill

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model, stack_blocks, unstack_blocks
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.gated_attention import GatedPositionalAttention
from vit_jax_tricks.pretrained.load import load_arrays
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.sharding import make_mesh, state_shardings


pytestmark = pytest.mark.slow


TINY = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 4,
    "local_up_to_layer": 1,
}
KEY = jax.random.key(0)


def make(**overrides):
    return create_model("convit_tiny", 10, **TINY | overrides)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


@pytest.fixture(scope="module")
def start():
    _, arrays = load_golden("models_full/official_convit_local_init")
    return arrays


@pytest.mark.parametrize(("heads", "strength"), [(4, 1), (9, 1), (16, 1), (4, 2)])
def test_heads_start_as_the_reference_s(start, heads, strength):
    layer = GatedPositionalAttention(
        heads, 8, (4, 4), locality_strength=float(strength)
    )
    x = jnp.zeros((1, 16, 8 * heads))
    params = jit_once(partial(layer.init, train=False))(KEY, x)["params"]
    name = f"h{heads}_s{strength}"
    kernel = params["pos_proj"]["kernel"]
    np.testing.assert_array_equal(kernel.T, start[f"{name}_pos_proj_weight"])
    bias = params["pos_proj"]["bias"]
    np.testing.assert_array_equal(bias, start[f"{name}_pos_proj_bias"])
    gate = params["gating_param"]
    np.testing.assert_array_equal(gate, start[f"{name}_gating_param"])
    d = 8 * heads
    assert start[f"{name}_v_is_identity"]
    np.testing.assert_array_equal(params["v"]["kernel"].reshape(d, d), np.eye(d))
    qk = params["qk"]["kernel"]
    assert qk.shape == (d, 2, heads, 8)
    assert qk.std() == pytest.approx(0.02, rel=0.1)


def test_heads_beyond_a_square_number_start_at_random():
    layer = GatedPositionalAttention(5, 8, (2, 2))
    x = jnp.zeros((1, 4, 40))
    params = jit_once(partial(layer.init, train=False))(KEY, x)["params"]
    kernel = params["pos_proj"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :4], functional.local_kernel(4, 1.0))
    assert 0 < jnp.abs(kernel[:, 4]).max() < 0.1


def test_rest_starts_as_the_reference_s(images):
    params = jit_once(make(embed_dim=32, patch_size=16).init)(KEY, images)["params"]
    plain = params["blocks_1"]["attn"]["qkv"]["kernel"]
    for leaf in (plain, params["pos_embed"], params["cls_token"]):
        assert leaf.std() == pytest.approx(0.02, rel=0.2)
    assert params["blocks_0"]["attn"]["qk"].keys() == {"kernel"}
    assert params["blocks_0"]["attn"]["proj"].keys() == {"kernel", "bias"}


def test_offsets_are_the_reference_s_and_count_rows_and_columns(start):
    np.testing.assert_array_equal(
        functional.rel_indices((4, 4))[None], start["rel_indices_n16"]
    )
    wide = functional.rel_indices((2, 3))
    np.testing.assert_array_equal(wide[0, 2], [2, 0, 4])
    np.testing.assert_array_equal(wide[5, 0], [-2, -1, 5])


def test_each_head_starts_at_one_neighbour():
    """Nine heads look at a 3x3 neighbourhood, and nowhere else when strong."""
    offsets = functional.rel_indices((5, 5))
    scores = functional.position_scores(
        offsets, jnp.asarray(functional.local_kernel(9, 10.0)), jnp.zeros(9)
    )
    weights = jax.nn.softmax(scores, axis=-1)
    centre = 12
    seen = {tuple(offsets[centre, j, :2]) for j in weights[:, centre].argmax(-1)}
    assert seen == {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert weights[:, centre].max(-1).min() > 0.999


def test_gates_choose_between_content_and_position():
    rng = np.random.default_rng(0)
    q, k = jnp.asarray(rng.standard_normal((2, 3, 6, 2, 4), np.float32))
    scores = jnp.asarray(rng.standard_normal((2, 6, 6), np.float32))
    weights = functional.gated_position_weights(
        q, k, scores, jnp.array([-50.0, 50.0]), scale=0.7
    )
    content = functional.attention_weights(q, k, scale=0.7)[:, 0]
    chex.assert_trees_all_close(weights[:, 0], content, atol=1e-6)
    position = jax.nn.softmax(scores[1])
    for row in weights[:, 1]:
        chex.assert_trees_all_close(row, position, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("first", [0, 2])
def test_scan_equals_the_unrolled_model(first, images):
    model = make(depth=3, local_up_to_layer=first)
    variables = fill(model, images)
    scanned = model.clone(scan=True)
    params = stack_blocks(variables["params"])
    shapes = jax.eval_shape(scanned.init, KEY, images)["params"]
    chex.assert_trees_all_equal_shapes(params, shapes)
    assert params["blocks"]["norm1"]["scale"].shape == (first or 3, 32)
    chex.assert_trees_all_equal(unstack_blocks(params), variables["params"])
    chex.assert_trees_all_close(
        apply(scanned, {"params": params}, images),
        apply(model, variables, images),
        atol=1e-5,
        rtol=0,
    )


def test_remat_gives_the_same_training_step(images):
    model = make(scan=True, drop_path_rate=0.5, proj_drop_rate=0.1)

    def loss(params, model):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": KEY}
        )
        return (logits**2).sum()

    params = fill(model, images)["params"]
    grad = jit_once(jax.grad(loss), static_argnums=1)
    plain, again = grad(params, model), grad(params, model.clone(remat=True))
    chex.assert_tree_all_finite(plain)
    chex.assert_trees_all_close(plain, again, atol=1e-4, rtol=1e-4)


def test_a_mesh_changes_neither_values_nor_drops(images):
    model = make(scan=True, drop_path_rate=0.5, qkv_bias=True)
    params = fill(model, images)["params"]
    run = jit_once(partial(model.apply, train=True, rngs={"dropout": KEY}))
    alone = run({"params": params}, images)[0]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        shardings = state_shardings(params, mesh)
        attn = shardings["blocks"]["attn"]
        assert attn["qk"]["kernel"].spec[-2] == "tensor"
        assert attn["v"]["bias"].spec[-2] == "tensor"
        placed = jax.device_put(params, shardings)
        spread = run({"params": placed}, images)[0]
    np.testing.assert_allclose(spread, alone, atol=1e-5)


@pytest.mark.parametrize(
    "rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"]
)
def test_every_dropout_acts_in_training(rate, images):
    model = make(scan=True, **{rate: 0.5})
    variables = fill(model, images)
    first, second = (apply(model, variables, images, s, train=True)[0] for s in (0, 1))
    assert jnp.abs(first - second).max() > 1e-4


def test_options_change_what_they_should(images):
    model = make()
    params = fill(model, images)["params"]
    logits, aux = apply(model, {"params": params}, images)
    assert aux["tokens"].shape == (4, 17, 32)
    mean, averaged = apply(model.clone(global_pool="avg"), {"params": params}, images)
    chex.assert_trees_all_close(
        averaged["features"], aux["tokens"][:, 1:].mean(1), atol=1e-6
    )
    assert jnp.abs(mean - logits).max() > 1e-3
    sharper = apply(model.clone(qk_scale=2.0), {"params": params}, images)[0]
    assert jnp.abs(sharper - logits).max() > 1e-4
    rest = {k: v for k, v in params.items() if k != "pos_embed"}
    free = model.clone(use_pos_embed=False)
    zeros = {**params, "pos_embed": jnp.zeros_like(params["pos_embed"])}
    chex.assert_trees_all_equal(
        apply(free, {"params": rest}, images)[0],
        apply(model, {"params": zeros}, images)[0],
    )


def test_rectangular_images():
    model = make(img_size=[16, 32])
    images = jnp.ones((1, 16, 32, 3))
    _, aux = apply(model, fill(model, images), images)
    assert aux["tokens"].shape == (1, 9, 32)


def test_another_image_size_resamples_the_positions():
    case = SMALL[1]
    state = reference_state(load_golden(case.golden)[0])
    model = make(depth=4, local_up_to_layer=2, img_size=48)
    variables, report = load_arrays(model, state)
    assert report.resized == ("pos_embed (1, 16, 32) -> (1, 36, 32)",)
    expected = resize_positions(jnp.asarray(state["pos_embed"]), (6, 6), prefix=0)
    chex.assert_trees_all_equal(variables["params"]["pos_embed"], expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"local_up_to_layer": 2}, "no block for the class token; use less than"),
        ({"local_up_to_layer": -1}, "local_up_to_layer=-1 is too small"),
        ({"locality_strength": 0.0}, "locality_strength=0.0 must be over 0"),
        ({"embed_dim": 0}, "embed_dim=0 is too small"),
        ({"img_size": 30}, "not divisible by patch_size=8"),
        ({"mlp_ratio": 0.01}, "mlp_ratio=0.01 leaves no hidden units"),
        ({"attn_drop_rate": 2.0}, "not a rate"),
        ({"global_pool": "map"}, "token, avg"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message):
        make(**overrides)

"""What must hold for every family: under jit, vmap, grad, bfloat16 and in training."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from model_goldens import jit_once
from small_models import apply

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.param_names import by_path


@pytest.fixture(scope="module", params=zoo.ONE_EACH, ids=str)
def built(request):
    """Model, variables from the reference's weights, images."""
    return request.param.build("float32")[:3]


@pytest.mark.slow
def test_jit_equals_eager(built):
    model, variables, images = built
    eager = model.apply(variables, images)[0]
    jitted = apply(model, variables, images)[0]
    chex.assert_trees_all_close(jitted, eager, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_vmap_over_seeds_equals_a_loop(built):
    model, _, images = built
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jit_once(jax.vmap(model.init, (0, None)))(keys, images[:1])
    stacked = jax.device_get(stacked)  # slicing on the device compiles each shape
    many = jit_once(jax.vmap(model.apply, (0, None)))(stacked, images)[0]
    for i in range(2):
        variables = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        one = apply(model, variables, images)[0]
        chex.assert_trees_all_close(many[i], one, atol=1e-5, rtol=0)
    assert jnp.abs(many[0] - many[1]).max() > 1e-4


@pytest.mark.slow
def test_bfloat16_is_near_float32(built):
    """Rounding of 2**-9 in every layer: within a tenth of the logits' deviation."""
    model, variables, images = built
    full = apply(model, variables, images)[0]
    half = model.clone(dtype=jnp.dtype("bfloat16"))
    logits, aux = apply(half, variables, images)
    assert logits.dtype == jnp.float32
    assert aux["tokens"].dtype == jnp.bfloat16
    assert float(jnp.abs(logits - full).max() / full.std()) < 0.1


@pytest.mark.slow
def test_training_gradients_are_finite_and_reach_every_parameter(built):
    model, variables, images = built
    state = {k: v for k, v in variables.items() if k != "params"}

    def loss(params, key):
        (logits, _), _ = model.apply(
            {**state, "params": params},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return jax.nn.log_softmax(logits)[:, 0].sum()

    grads = jit_once(jax.grad(loss))(variables["params"], jax.random.key(0))
    chex.assert_tree_all_finite(grads)
    moved = [leaf.any() for leaf in jax.tree.leaves(jax.device_get(grads))]
    assert np.mean(moved) > 0.9  # an auxiliary head may have no part in this loss


def test_what_a_family_says_of_itself(built):
    """Blocks with their units, and the tokens before those of the places."""
    model, variables, images = built
    params = by_path(variables["params"])
    said = {}
    for block in model.blocks():
        assert any(path.startswith(f"{block.path}/") for path in params), block
        said |= {f"{u.place}/kernel": u.count for u in block.units.values()}
    assert said == {place: params[place].shape[0] for place in said}
    ends = re.compile(r".*blocks_\w+/(attn/proj|mlp/fc2|\w+_out_proj)/kernel")
    assert {path for path in params if ends.fullmatch(path)} <= said.keys()
    _, aux = jax.eval_shape(model.apply, variables, images)
    rows, columns = model.token_head().grid
    assert aux["tokens"].shape[1] == model.prefix_tokens + rows * columns


def test_another_number_of_classes_and_none(built):
    model = built[0]
    images = jax.ShapeDtypeStruct(built[2].shape, jnp.float32)
    for classes in (3, 0):
        other = model.clone(num_classes=classes)
        (logits, aux), _ = jax.eval_shape(
            other.init_with_output, jax.random.key(0), images
        )
        width = classes or aux["features"].shape[-1]
        assert logits.shape == (images.shape[0], width)
        assert logits.dtype == jnp.float32


def test_every_family_is_covered():
    families = {type(create_model(case.name)) for case in zoo.ONE_EACH}
    listed = {type(create_model(case.name)) for case in zoo.SMALL + zoo.FULL}
    assert families == listed


@pytest.mark.parametrize("name", ["cait_xxs24_224", "coatnet_0_224", "volo_d1_224"])
def test_what_a_family_cannot_vary_is_said(name):
    model = create_model(name)
    with pytest.raises(UserError, match="cannot be pruned: its blocks must be equal"):
        model.with_units({"heads": {}})
    with pytest.raises(UserError, match="ties its width"):
        model.with_width(64)

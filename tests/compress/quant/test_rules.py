"""Which places the rules quantise, over every family of models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ONE_EACH

from vit_jax_tricks.compress import (
    Spec,
    quantize_params,
    quantized_places,
    quantized_weights,
    standard_rules,
    weight_ranges,
)
from vit_jax_tricks.compress.quant import places, rules
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.param_names import parameters


def shapes(model):
    images = jnp.zeros((2, *model.image_shape))
    return jax.eval_shape(model.init, jax.random.key(0), images), images


def tiny_vit(**more):
    fields = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    return create_model("vit_tiny_patch16_224", num_classes=4, **{**fields, **more})


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_standard_rules_take_linear_layers_with_their_inputs_and_no_others(case):
    model, variables, images, *_ = case.build("float32")
    found = quantized_places(model, variables, images, standard_rules())
    weights = {name for name in found if name.endswith("/kernel")}
    inputs = {name for name in found if name.endswith("/input")}
    assert weights | inputs == set(found)
    assert {n.removesuffix("kernel") for n in weights} == {
        n.removesuffix("input") for n in inputs
    }
    table = parameters(variables["params"])
    assert all(table[name].outputs for name in weights)
    blocks = {n for n in table if n.endswith("/kernel") and "blocks" in n}
    assert len(weights) > 0.6 * len(blocks)
    for name in ("qkv", "qk", "kv", "v", "fc1", "fc2"):
        wanted = {n for n in blocks if n.endswith(f"/{name}/kernel")}
        wanted = {n for n in wanted if "/se" not in n and "/rel_pos/" not in n}
        wanted = {n for n in wanted if "cpb_mlp" not in n}
        assert wanted <= weights
    words = {part for name in found for part in name.split("/")}
    assert not words & {"patch_embed", "stem", "head", "norm1", "Dropout_0", "rel_pos"}


def test_activations_are_named_by_the_module_that_takes_them():
    variables, images = shapes(model := tiny_vit())
    names = places.input_places(model, variables, images)
    expected = [
        "patch_embed/proj/input",
        "blocks_0/norm1/input",
        "blocks_0/attn/qkv/input",
        "blocks_0/attn/Dropout_0/input",
        "blocks_0/attn/proj/input",
        "blocks_1/mlp/fc2/input",
        "norm/input",
        "head/input",
    ]
    assert [name for name in names if name in expected] == expected
    assert not {"input", "blocks_0/input", "blocks_0/attn/input"} & set(names)


def test_the_first_rule_decides_and_sensitive_places_can_be_taken_back():
    variables, images = shapes(model := tiny_vit())
    probabilities = Spec("uint8", observer="fixed", fixed=(0.0, 1.0))
    four = Spec("int4_narrow", per_channel=True)
    own = (
        (r".*/attn/Dropout_0/input", probabilities),
        (r"blocks_1/mlp/.*kernel", four),
        (r"head/kernel", Spec("float8_e4m3fn")),
        *standard_rules(),
    )
    found = quantized_places(model, variables, images, own)
    assert found["blocks_0/attn/Dropout_0/input"] == probabilities
    assert found["blocks_1/mlp/fc1/kernel"] == four
    assert found["blocks_0/mlp/fc1/kernel"] == rules.WEIGHT
    assert found["head/kernel"] == Spec("float8_e4m3fn")
    assert "head/input" not in found
    only = quantized_places(model, variables, images, standard_rules(four, None))
    assert set(only.values()) == {four}


def test_stacked_blocks_have_the_names_of_their_layers():
    flat, images = shapes(model := tiny_vit())
    stacked, _ = shapes(scanned := tiny_vit(scan=True))
    one = quantized_places(model, flat, images, standard_rules())
    many = quantized_places(scanned, stacked, images, standard_rules())
    table = parameters(stacked["params"])
    names = {n for place in many for n in places.layer_names(place, table)}
    assert names == set(one)
    assert places.layer_names("blocks/attn/Dropout_0/input", table) == (
        "blocks_0/attn/Dropout_0/input",
        "blocks_1/attn/Dropout_0/input",
    )
    split = ((r"blocks_1/mlp/fc1/kernel", None), *standard_rules())
    with pytest.raises(UserError, match="blocks_0/mlp/fc1/kernel and blocks_1"):
        quantized_places(scanned, stacked, images, split)


def test_bad_rules_stop():
    variables, images = shapes(model := tiny_vit())

    def find(*own):
        return quantized_places(model, variables, images, own)

    with pytest.raises(UserError, match='no quantisation rule for "blocks_0/'):
        find((r".*kernel", rules.WEIGHT))
    with pytest.raises(UserError, match=r'rule "mpl/\.\*" matches no place'):
        find((r"mpl/.*", None), *standard_rules())
    with pytest.raises(UserError, match=r'rule "\*" is not a regex'):
        find((r"*", None), *standard_rules())
    with pytest.raises(UserError, match="one step: set per_channel=False"):
        find((r".*fc1/input", Spec(per_channel=True)), *standard_rules())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(grid="int12"), 'grid "int12" is unknown'),
        (dict(observer="minmax"), 'Did you mean "min_max"'),
        (dict(grid="float8_e5m2", symmetric=False), "set symmetric=True"),
        (dict(observer="mean_abs", symmetric=False), "needs symmetric=True"),
        (dict(observer="fixed"), "a fixed range needs both"),
        (dict(fixed=(0.0, 1.0)), "a fixed range needs both"),
        (dict(observer="fixed", fixed=(1.0, 0.0)), "low < high"),
        (dict(symmetric=False, half_range=True), "half_range"),
    ],
)
def test_specs_that_contradict_themselves_stop(fields, message):
    with pytest.raises(UserError, match=message):
        Spec(**fields)


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "a": {"qkv": {"kernel": normal(16, 3, 2, 8), "bias": normal(3, 2, 8)}},
        "b": {
            "proj": {"kernel": normal(2, 8, 16)},
            "conv": {"kernel": normal(3, 3, 4, 8)},
        },
        "blocks": {"fc": {"kernel": normal(5, 16, 12)}},
    }


def test_any_tree_has_one_step_for_each_output_channel(tree):
    own = ((r".*kernel", Spec("int8_narrow", per_channel=True)), (r".*", None))
    specs = quantized_weights(tree, own)
    ranges = weight_ranges(tree, specs)
    steps = {name: found.scale.shape for name, found in ranges.items()}
    assert steps == {
        "a/qkv/kernel": (1, 3, 2, 8),
        "b/proj/kernel": (1, 1, 16),
        "b/conv/kernel": (1, 1, 1, 8),
        "blocks/fc/kernel": (5, 1, 12),
    }
    rounded = quantize_params(tree, ranges, specs)
    for leaf, new in zip(jax.tree.leaves(tree), jax.tree.leaves(rounded), strict=True):
        changed = bool((leaf != new).any())
        assert changed == (leaf.shape != (3, 2, 8))
        np.testing.assert_allclose(leaf, new, atol=float(jnp.abs(leaf).max()) / 250)


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["int8_narrow", "int6", "int4_narrow", "uint4"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_squared_error_never_clips_worse_than_the_largest_value(tree, grid, symmetric):
    def error(observer):
        spec = Spec(grid, symmetric, per_channel=True, observer=observer)
        specs = quantized_weights(tree, ((r".*kernel", spec), (r".*", None)))
        rounded = quantize_params(tree, weight_ranges(tree, specs), specs)
        leaf, new = tree["a"]["qkv"]["kernel"], rounded["a"]["qkv"]["kernel"]
        return jnp.square(leaf - new).sum(0)

    mse, largest = error("mse"), error("min_max")
    assert bool((mse <= largest * (1 + 1e-6)).all())
    if grid == "int4_narrow":
        assert float(mse.sum()) < 0.95 * float(largest.sum())


def test_weights_take_powers_of_two_learned_steps_and_fixed_ranges(tree):
    kernel = tree["b"]["proj"]["kernel"]

    def step(**fields):
        specs = quantized_weights(
            tree, ((r"b/proj/kernel", Spec("int4", **fields)), (r".*", None))
        )
        return weight_ranges(tree, specs)["b/proj/kernel"].scale

    plain = step(per_channel=True)
    power = step(per_channel=True, power_of_two=True)
    np.testing.assert_array_equal(power, 2.0 ** np.ceil(np.log2(plain)))
    lsq = step(observer="mean_abs")
    np.testing.assert_allclose(
        lsq.reshape(()), 2 * jnp.abs(kernel).mean() / 7**0.5, rtol=1e-6
    )
    np.testing.assert_allclose(step(observer="fixed", fixed=(-3.5, 3.5)), 0.5)
    with pytest.raises(UserError, match='"entropy" is for activations'):
        step(observer="entropy")
    own = ((r".*bias", Spec(per_channel=True)), (r".*", None))
    with pytest.raises(UserError, match="has no output channels"):
        weight_ranges(tree, quantized_weights(tree, own))

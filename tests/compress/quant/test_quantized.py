"""Calibration and quantised application of whole models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_goldens import jit_once
from small_models import fill
from zoo import ONE_EACH, SMALL

from vit_jax_tricks.compress import (
    Range,
    Spec,
    calibrate,
    fake_quant,
    grid,
    int8_linear,
    quantize,
    quantize_params,
    quantized_apply,
    standard_rules,
)
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model


W8A8 = standard_rules()
W4A8 = standard_rules(Spec("int4_narrow", per_channel=True, observer="mse"))
SLOW_SWIN = pytest.param("small_swin", marks=pytest.mark.slow)
SLOW_LVVIT = pytest.param("small_lvvit", marks=pytest.mark.slow)
AFFINE = Spec("uint8", symmetric=False)


@functools.cache
def small(name, **more):
    """Model, variables, images and float logits."""
    case = next(case for case in SMALL if str(case) == name)
    model, variables, images, *_ = case.build("float32", **more)
    logits = jit_once(lambda v, x: model.apply(v, x, train=False)[0])(variables, images)
    return model, variables, images, logits


def ranges_of(name, rules=W8A8, **more):
    return _ranges(name, rules, **more)


@functools.cache  # of all arguments, so that a default is no other call
def _ranges(name, rules, **more):
    model, variables, images, _ = small(name, **more)
    return calibrate(model, variables, [images], rules)


def quantized_logits(name, rules=W8A8, **more):
    return _logits(name, rules, **more)


@functools.cache
def _logits(name, rules, **more):
    model, variables, images, _ = small(name, **more)
    ranges = ranges_of(name, rules, **more)

    def logits(variables, images, ranges):
        return quantized_apply(model, variables, images, ranges, rules)[0]

    return jit_once(logits)(variables, images, ranges)


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_vit", "small_swin", "small_lvvit"])
def test_int8_logits_stay_within_three_per_cent_of_float(name):
    float_logits = small(name)[3]
    assert 1e-4 < relative(quantized_logits(name), float_logits) < 0.03


@pytest.mark.parametrize("name", ["small_vit", SLOW_SWIN, SLOW_LVVIT])
def test_four_bit_weights_are_coarser(name):
    float_logits = small(name)[3]
    eight = relative(quantized_logits(name), float_logits)
    assert 5 * eight < relative(quantized_logits(name, W4A8), float_logits) < 0.3


@pytest.mark.slow
def test_float8_and_affine_activations_and_observers():
    float_logits = small("small_vit")[3]
    eight = Spec("float8_e4m3fn", per_channel=True)
    for weight, activation, bound in (
        (eight, Spec("float8_e4m3fn"), 0.15),
        (Spec("int8_narrow", per_channel=True), AFFINE, 0.03),
        (Spec(per_channel=True), Spec(observer="percentile"), 0.05),
        (Spec(per_channel=True), Spec(observer="moving_average"), 0.03),
        (Spec(per_channel=True), Spec("uint8", False, observer="mse"), 0.05),
    ):
        rules = standard_rules(weight, activation)
        probabilities = Spec(activation.grid, observer="fixed", fixed=(0.0, 1.0))
        rules = ((r".*/attn/Dropout_0/input", probabilities), *rules)
        assert len(ranges_of("small_vit", rules)) == 24 + 3  # softmax outputs
        assert relative(quantized_logits("small_vit", rules), float_logits) < bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_vit", SLOW_SWIN])
def test_scanned_blocks_have_the_same_ranges_and_logits(name):
    flat, stacked = ranges_of(name), ranges_of(name, scan=True)
    assert len(stacked) < len(flat)
    for place, found in stacked.items():
        if "blocks/" not in place:
            np.testing.assert_allclose(found.scale, flat[place].scale, rtol=1e-4)
            continue
        for i, scale in enumerate(found.scale):
            one = flat[place.replace("blocks/", f"blocks_{i}/")].scale
            np.testing.assert_allclose(scale, one, rtol=1e-4)
    one, many = quantized_logits(name), quantized_logits(name, scan=True)
    assert relative(many, one) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_vit", SLOW_SWIN, SLOW_LVVIT])
def test_eager_equals_compiled_up_to_values_next_to_a_tie(name):
    model, variables, images, _ = small(name)
    eager, _ = quantized_apply(model, variables, images, ranges_of(name), W8A8)
    assert relative(eager, quantized_logits(name)) < 2e-3


@pytest.mark.slow
def test_scanned_and_recomputed_blocks_have_gradients_of_their_steps():
    fields = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    fields |= dict(num_classes=4, scan=True, remat=True)
    model = create_model("vit_tiny_patch16_224", **fields)
    images = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3)), jnp.float32)
    variables = fill(model, images)
    weight = Spec("int8_narrow", per_channel=True, learned=True)
    rules = standard_rules(weight, Spec(learned=True))
    ranges = calibrate(model, variables, [images], rules)
    assert ranges["blocks/attn/qkv/input"].scale.shape == (2,)
    assert ranges["blocks/attn/qkv/kernel"].scale.shape == (2, 1, 3, 2, 8)

    def loss(variables, ranges):
        return quantized_apply(model, variables, images, ranges, rules)[0][:, 0].sum()

    of_params, of_ranges = jit_once(jax.grad(loss, (0, 1)))(variables, ranges)
    assert jax.tree.structure(of_params) == jax.tree.structure(variables)
    for gradient in jax.tree.leaves((of_params, of_ranges)):
        assert bool(jnp.isfinite(gradient).all())
    for gradient in of_ranges["blocks/mlp/fc1/input"].scale:
        assert float(gradient) != 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_every_family_of_models_stays_within_five_per_cent(case):
    assert relative(quantized_logits(str(case)), small(str(case))[3]) < 0.05


def test_ranges_grow_with_the_batches_and_use_each():
    model, variables, images, _ = small("small_vit")
    both = calibrate(model, variables, [images, 3 * images], W8A8)
    one = ranges_of("small_vit")
    last = calibrate(model, variables, iter([3 * images]), W8A8)
    for place, found in both.items():
        largest = jnp.maximum(one[place].scale, last[place].scale)
        np.testing.assert_allclose(found.scale, largest, rtol=1e-5)


class Shared(nn.Module):
    """One layer on two different inputs."""

    @nn.compact
    def __call__(self, x, train=False):
        layer = nn.Dense(3, name="layer")
        return layer(x) + layer(5 * x), {}


def test_a_layer_called_twice_has_the_range_of_both_calls():
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, 2, 2, 4)), jnp.float32
    )
    variables = Shared().init(jax.random.key(0), images)
    rules = ((r"layer/input", Spec()), (r".*", None))
    ranges = calibrate(Shared(), variables, [images], rules)
    largest = 5 * float(jnp.abs(images).max())
    np.testing.assert_allclose(ranges["layer/input"].scale, largest / 127, rtol=1e-6)
    got, _ = quantized_apply(Shared(), variables, images, ranges, rules)
    step = ranges["layer/input"].scale
    layer = variables["params"]["layer"]
    rounded = [fake_quant(n * images, step, grid=grid("int8")) for n in (1, 5)]
    np.testing.assert_allclose(got, sum(rounded) @ layer["kernel"], atol=1e-5)


def loss_and_grads(name, rules, ranges, learned=False):
    model, variables, images, _ = small(name)

    def loss(params, ranges):
        given = {**variables, "params": params}
        logits = quantized_apply(model, given, images, ranges, rules)[0]
        return (jax.nn.log_softmax(logits)[:, 0]).sum()

    wanted = (0, 1) if learned else 0
    return jit_once(jax.value_and_grad(loss, wanted))(variables["params"], ranges)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_vit", SLOW_SWIN, "small_lvvit"])
def test_gradients_are_finite_and_point_where_floats_do(name):
    _, grads = loss_and_grads(name, W8A8, ranges_of(name))
    model, variables, images, _ = small(name)

    def float_loss(params):
        logits = model.apply({**variables, "params": params}, images, train=False)[0]
        return (jax.nn.log_softmax(logits)[:, 0]).sum()

    plain = jit_once(jax.grad(float_loss))(variables["params"])
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    ours = jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(grads)])
    want = jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(plain)])
    assert float(ours @ want / jnp.linalg.norm(ours) / jnp.linalg.norm(want)) > 0.98


def test_weights_get_the_gradient_of_their_rounded_values():
    rules = standard_rules(activation=None)
    ranges = ranges_of("small_vit", rules)
    model, variables, images, _ = small("small_vit")
    _, grads = loss_and_grads("small_vit", rules, ranges)
    specs = dict.fromkeys(ranges, Spec("int8_narrow", per_channel=True))
    rounded = quantize_params(variables["params"], ranges, specs)

    def float_loss(params):
        logits = model.apply({**variables, "params": params}, images, train=False)[0]
        return (jax.nn.log_softmax(logits)[:, 0]).sum()

    want = jit_once(jax.grad(float_loss))(rounded)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, want
    )


@pytest.mark.slow
def test_learned_steps_get_gradients_and_lower_the_loss():
    rules = standard_rules(
        Spec("int4_narrow", per_channel=True, observer="mean_abs", learned=True),
        Spec("int4", observer="mean_abs", learned=True),
    )
    ranges = ranges_of("small_vit", rules)
    value, (_, grads) = loss_and_grads("small_vit", rules, ranges, learned=True)
    leaves = jax.tree.leaves(grads)
    assert all(bool(jnp.isfinite(g).all() & (g != 0).any()) for g in leaves)
    moved = jax.tree.map(lambda s, g: s + 0.01 * s * jnp.sign(g), ranges, grads)
    higher, _ = loss_and_grads("small_vit", rules, moved, learned=True)
    assert float(higher) > float(value)


@pytest.mark.parametrize("module", ["qkv", "proj"])
def test_heads_and_their_dimensions_are_output_channels(module):
    """The rounded layer is the integer layer: no step lies along a summed axis."""
    _, variables, _, _ = small("small_vit")
    kernel = variables["params"]["blocks_0"]["attn"][module]["kernel"]
    found = ranges_of("small_vit")[f"blocks_0/attn/{module}/kernel"]
    inputs = 1 if module == "qkv" else 2
    depth = int(np.prod(kernel.shape[:inputs]))
    assert found.scale.shape == (1,) * inputs + kernel.shape[inputs:]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, depth)), jnp.float32)
    x_step = float(ranges_of("small_vit")[f"blocks_0/attn/{module}/input"].scale)
    narrow, int8 = grid("int8_narrow"), grid("int8")
    stored = quantize(kernel, found.scale, grid=narrow).reshape(depth, -1)
    got = int8_linear(
        quantize(x, x_step, grid=int8),
        stored,
        x_scale=x_step,
        kernel_scale=found.scale.reshape(-1),
    )
    rounded = fake_quant(kernel, found.scale, grid=narrow).reshape(depth, -1)
    want = fake_quant(x, x_step, grid=int8) @ rounded
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_dropout_keys_and_bfloat16_pass_through():
    model = create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=4,
        proj_drop_rate=0.5,
        dtype="bfloat16",
    )
    images = jnp.ones((2, 16, 16, 3))
    variables = fill(model, images)
    ranges = calibrate(model, variables, [images], W8A8)

    @jit_once
    def run(key):
        options = dict(train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return quantized_apply(model, variables, images, ranges, W8A8, **options)

    (one, _), state = run(jax.random.key(0))
    assert state == {}
    np.testing.assert_array_equal(run(jax.random.key(0))[0][0], one)
    assert bool((run(jax.random.key(1))[0][0] != one).any())


def test_bad_calls_stop():
    model, variables, images, _ = small("small_vit")
    with pytest.raises(UserError, match="got no batch of images"):
        calibrate(model, variables, [], W8A8)
    with pytest.raises(UserError, match="not finite"):
        calibrate(model, variables, [jnp.full_like(images, jnp.nan)], W8A8)
    for own, other in ((False, True), (True, False)):
        model, variables, images, _ = small("small_vit", scan=own)
        ranges = ranges_of("small_vit", scan=other)
        with pytest.raises(UserError, match="kernel has no range"):
            quantized_apply(model, variables, images, ranges, W8A8)
    ranges = dict(ranges_of("small_vit"))
    model, variables, images, _ = small("small_vit")
    kernel = "blocks_0/attn/qkv/kernel"
    with pytest.raises(UserError, match="a range but no rule"):
        quantized_apply(model, variables, images, ranges, ((r".*", None),))
    more = {**ranges, "head/kernel": Range(jnp.float32(1))}
    with pytest.raises(UserError, match="head/kernel has a range but no rule"):
        quantized_apply(model, variables, images, more, W8A8)
    del ranges[kernel]
    with pytest.raises(UserError, match=f"{kernel} has no range"):
        quantized_apply(model, variables, images, ranges, W8A8)

"""Float ONNX: every family equals JAX, for any number of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from model_goldens import jit_once
from onnx_kernels import kernels
from small_models import fill
from zoo import FULL, ONE_EACH, SMALL

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import to_onnx
from vit_jax_tricks.export.proof import onnx_function
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.registry import lookup


FAST = ("small_deit", "small_swin", "small_cait")
TINY = dict(img_size=32, embed_dim=16, depth=2, num_heads=2, patch_size=8)
VARIANTS = (
    dict(scan=True),
    dict(remat=True, act_layer="gelu_tanh"),
    dict(dtype="bfloat16", param_dtype="bfloat16", scan=True),
    dict(pos_embed="irpe_bias_product_k"),
    dict(pos_embed="irpe_ctx_cross_qkv"),
    dict(pos_embed="irpe_ctx_quant_shared_k"),
)


def exported(model, variables):
    proto = to_onnx(model, variables, model.image_shape)
    onnx.checker.check_model(proto, full_check=True)
    return proto, onnx_function(proto.SerializeToString())


def check_equal(model, variables, atol, batches=(1, 3)):
    shape = (max(batches), *model.image_shape)
    images = np.random.default_rng(1).standard_normal(shape, np.float32)
    _, function = exported(model, variables)
    expected = jit_once(lambda v, x: model.apply(v, x, train=False)[0])
    expected = np.asarray(expected(variables, jnp.asarray(images)))
    for batch in batches:
        np.testing.assert_allclose(
            function(images[:batch]), expected[:batch], rtol=0, atol=atol
        )


def slow_unless_fast(case):
    marks = () if str(case) in FAST else pytest.mark.slow
    return pytest.param(case, marks=marks, id=str(case))


@pytest.mark.usefixtures("symbolic_sizes")
@pytest.mark.parametrize("case", list(map(slow_unless_fast, SMALL)))
def test_small_models_equal_jax(case):
    model, variables, *_ = case.build("float32")
    check_equal(model, variables, 1e-5)


def full_of_each_family():
    wanted = {lookup(case.name).family for case in ONE_EACH}
    found = {}
    for case in reversed(FULL):
        found[lookup(case.name).family] = case
    return [pytest.param(c, id=str(c)) for f, c in found.items() if f in wanted]


@pytest.mark.usefixtures("symbolic_sizes")
@pytest.mark.slow
@pytest.mark.parametrize("case", full_of_each_family())
def test_full_models_equal_jax(case):
    model, variables, *_ = case.build("float32")
    check_equal(model, variables, 1e-4, batches=(2,))


@pytest.mark.usefixtures("symbolic_sizes")
@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_layouts_and_positions_equal_jax(fields):
    model = create_model("deit_tiny_patch16_224", 5, **TINY, **fields)
    images = jnp.ones((1, *model.image_shape), model.dtype)
    variables = fill(model, images)
    single = model.clone(dtype=jnp.float32, param_dtype=jnp.float32)
    images = np.random.default_rng(1).standard_normal((3, 32, 32, 3), np.float32)
    _, function = exported(model, variables)
    expected = np.asarray(single.apply(variables, jnp.asarray(images))[0])
    np.testing.assert_allclose(function(images), expected, rtol=0, atol=1e-5)


def test_whole_operators_take_the_place_of_their_parts():
    model, variables, *_ = SMALL_DEIT.build("float32")
    proto, _ = exported(model, variables)
    counts: dict[str, int] = {}
    for node in proto.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    depth = model.depth
    assert counts["LayerNormalization"] == 2 * depth + 1
    assert (counts["Erf"], counts["Softmax"]) == (depth, depth)
    assert counts["MatMul"] == 6 * depth + 2
    assert not {"Neg", "Exp", "ReduceMax", "Reciprocal"} & set(counts)
    assert counts["Add"] == (4 + 2 + 1) * depth + 3  # biases, residuals, Gelu; ends


def test_onnxruntime_takes_biases_and_scales_into_its_kernels(tmp_path):
    model, variables, *_ = SMALL_DEIT.build("float32")
    proto, _ = exported(model, variables)
    kinds = kernels(proto, tmp_path)
    assert kinds.count("BiasGelu") == kinds.count("FusedMatMul") == model.depth
    assert not {"Gelu", "Erf", "Mul"} & set(kinds)


@pytest.mark.usefixtures("symbolic_sizes")
def test_position_tables_are_computed_when_exporting():
    case = next(case for case in SMALL if str(case) == "small_swin")
    model, variables, *_ = case.build("float32")
    proto, _ = exported(model, variables)
    assert not {"Gather", "Where", "Equal"} & {n.op_type for n in proto.graph.node}


class Sorts(nn.Module):
    """Has an operation without translation."""

    @nn.compact
    def __call__(self, images, train=False):
        return jnp.sort(images.reshape(images.shape[0], -1), axis=-1), {}


class Picks(nn.Module):
    """Reads a table at places that depend on the image."""

    @nn.compact
    def __call__(self, images, train=False):
        place = (images.sum((1, 2, 3)) > 0).astype(jnp.int32)
        return jnp.eye(2, dtype=jnp.float32)[place], {}


@pytest.mark.parametrize(
    ("model", "words"), [(Sorts(), ("Sorts", "sort")), (Picks(), ("Picks", "gather"))]
)
def test_what_has_no_translation_is_named(model, words):
    with pytest.raises(UserError) as error:
        to_onnx(model, {}, (4, 4, 3))
    assert all(word in str(error.value) for word in words)
    assert "--format=stablehlo" in str(error.value)
    assert "\n" not in str(error.value)


class Everything(nn.Module):
    """Operations that no model of ours has, each with its own result."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.mean((1, 2))
        y = jnp.stack([x, 2 * x], axis=1)
        parts = [
            jnp.where(x > 0, x, jnp.sin(x)),
            jnp.clip(x, -0.1, 0.1),
            jnp.log1p(jnp.abs(x)) + jnp.expm1(x) + x**3,
            jnp.round(4 * x) / 4,
            (x.argmax(-1, keepdims=True) + 1).astype(jnp.float32) * jnp.ones((1, 3)),
            y[:, ::-1][:, 0] + y.max(1) + y.min(1) + y.prod(1),
            jnp.cumsum(jnp.ones((1, 3)), axis=-1) * x,
            images[:, 1::2, ::2].max((1, 2)),
            jnp.take(images, jnp.array([3, 0, 2]), axis=1).sum((1, 2)),
            jax.lax.fori_loop(0, 3, lambda i, c: c * 1.5 + 1, x),
        ]
        return jnp.concatenate(parts, axis=-1), {}


def test_operations_one_by_one():
    model = Everything()
    images = np.random.default_rng(0).standard_normal((3, 4, 4, 3), np.float32)
    function = onnx_function(to_onnx(model, {}, (4, 4, 3)).SerializeToString())
    expected = np.asarray(model.apply({}, jnp.asarray(images))[0])
    np.testing.assert_allclose(function(images), expected, rtol=0, atol=1e-6)


SMALL_DEIT = next(case for case in SMALL if str(case) == "small_deit")

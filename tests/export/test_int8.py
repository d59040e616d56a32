"""INT8 ONNX equals the fake-quantised model, keeps TensorRT's rules, is small."""

import functools

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from model_goldens import jit_once
from onnx import helper, numpy_helper
from onnx_kernels import kernels
from quick import sparse
from zoo import ONE_EACH, SMALL

from vit_jax_tricks.compress import Spec, calibrate, quantized_apply, standard_rules
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.export import tensorrt_problems, to_onnx_int8
from vit_jax_tricks.export.proof import onnx_function


FAST = ("small_vit", "small_cait")
W8A8 = standard_rules()
W4 = standard_rules(Spec("int4_narrow", per_channel=True, observer="mse"))
TENSOR = standard_rules(Spec("int8_narrow"))
AFFINE = standard_rules(activation=Spec("uint8", symmetric=False))
NARROW = standard_rules(activation=Spec("int6"))
LEARNED = standard_rules(
    Spec("int8_narrow", per_channel=True, learned=True),
    Spec("int8", learned=True),
)


@functools.cache
def build(name, rules=W8A8, **more):
    """Images, the INT8 graph, the fake-quantised logits and those in float."""
    case = next(case for case in SMALL if str(case) == name)
    model, variables, images, *_ = case.build("float32", **more)
    ranges = calibrate(model, variables, [images], rules)
    scales = (1.0, 0.9, 0.8, 0.7, -0.7, -0.8, -0.9, -1.0)
    images = jnp.concatenate([images * scale for scale in scales])
    proto = to_onnx_int8(model, variables, ranges, rules, model.image_shape)

    def logits(variables, images):
        quantized = quantized_apply(model, variables, images, ranges, rules)[0]
        return quantized, model.apply(variables, images, train=False)[0]

    expected, plain = map(np.asarray, jit_once(logits)(variables, images))
    return np.asarray(images, np.float32), proto, expected, plain


def check(name, rules=W8A8, **more):
    images, proto, expected, plain = build(name, rules, **more)
    onnx.checker.check_model(proto, full_check=True)
    function = onnx_function(proto.SerializeToString())
    found = function(images)
    # Most images agree to rounding. In the others a rounding error at a tie moved a
    # value by a whole step; that is less than what quantising does.
    difference = np.abs(found - expected)
    assert np.median(difference.max(-1)) < 1e-5
    assert difference.max() < np.abs(expected - plain).max()
    return proto


@pytest.mark.usefixtures("symbolic_sizes")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FAST else pytest.mark.slow)
        for n in map(str, dict.fromkeys([*FAST, *map(str, ONE_EACH)]))
    ],
)
def test_equals_fake_quantisation(name):
    proto = check(name)
    assert tensorrt_problems(proto) == []


@pytest.mark.parametrize(
    "rules", sparse([W4, TENSOR, AFFINE, NARROW, LEARNED], every=4)
)
def test_other_rules(rules):
    check("small_vit", rules)


@pytest.mark.slow
def test_stacked_blocks():
    check("small_vit", scan=True)


def test_weights_are_stored_as_int8():
    _, proto, *_ = build("small_vit")
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    stored = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    weights = [arrays[n.input[0]] for n in stored if n.input[0] in arrays]
    assert len(weights) == 4 * 3  # qkv, proj, fc1 and fc2 of each block
    own = [n.input[i] for n in stored for i in (0, 2) if n.input[0] in arrays]
    assert len(set(own)) == len(own)  # onnxruntime makes uint8 of unshared ones only
    for weight in weights:
        assert weight.dtype == np.int8
        assert np.abs(weight).max() == 127


@pytest.mark.parametrize("name", ["small_vit", "small_cait"])
def test_onnxruntime_takes_its_int8_kernels(name, tmp_path):
    _, proto, *_ = build(name)
    kinds = kernels(proto, tmp_path)
    assert kinds.count("MatMulIntegerToFloat") == kinds.count("QuantizeLinear") > 0
    assert "DequantizeLinear" not in kinds


def test_float8_is_refused():
    rules = standard_rules(activation=Spec("float8_e4m3fn"))
    with pytest.raises(UserError, match=r"float8_e4m3fn: INT8 files hold integers"):
        build("small_vit", rules)


def test_uint8_activations_break_tensorrts_rules():
    _, proto, *_ = build("small_vit", AFFINE)
    assert any("levels must be int8" in line for line in tensorrt_problems(proto))


def graph(*nodes, **constants):
    values = dict(
        s=np.float32(0.1),
        z=np.int8(0),
        w=np.ones((4, 3), np.int8),
        ws=np.full(3, 0.1, np.float32),
        wz=np.zeros(3, np.int8),
    )
    values |= constants
    made = [helper.make_node(op, i, [o], **more) for op, i, o, more in nodes]
    body = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    return helper.make_model(body)


QUANTIZE = ("QuantizeLinear", ["x", "s", "z"], "q", {})
BACK = ("DequantizeLinear", ["q", "s", "z"], "d", {})
WEIGHT = ("DequantizeLinear", ["w", "ws", "wz"], "v", {"axis": 1})
PRODUCT = ("MatMul", ["d", "v"], "y", {})
GOOD = (QUANTIZE, BACK, WEIGHT, PRODUCT)


def test_a_good_graph_keeps_the_rules():
    assert tensorrt_problems(graph(*GOOD)) == []


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        (GOOD, {"z": np.int8(3)}, "zero points must be 0"),
        (GOOD, {"s": np.float32(0)}, "steps must be positive"),
        (GOOD, {"s": np.full(4, 0.1, np.float32)}, "must have one step"),
        (GOOD, {"z": np.uint8(0)}, "levels must be int8"),
        (GOOD, {"w": np.ones((4, 3), np.uint8)}, "stored as int8"),
        (
            (QUANTIZE, BACK, (*WEIGHT[:3], {"axis": 0}), PRODUCT),
            {"ws": np.full(4, 0.1, np.float32)},
            "axis 1, the output channels",
        ),
        (
            (
                QUANTIZE,
                BACK,
                WEIGHT,
                ("Relu", ["d"], "r", {}),
                ("MatMul", ["r", "v"], "y", {}),
            ),
            {},
            "stands before Relu",
        ),
        ((WEIGHT, ("MatMul", ["x", "v"], "y", {})), {}, "is in float"),
        (
            (QUANTIZE, ("DequantizeLinear", ["q", "t", "z"], "d", {}), WEIGHT, PRODUCT),
            {"t": np.float32(0.2)},
            "the step of QuantizeLinear",
        ),
        (
            (
                QUANTIZE,
                BACK,
                WEIGHT,
                PRODUCT,
                ("Cast", ["q"], "c", {"to": onnx.TensorProto.FLOAT}),
            ),
            {},
            "levels go to Cast",
        ),
    ],
)
def test_the_checker_names_each_rule(nodes, constants, words):
    assert any(words in line for line in tensorrt_problems(graph(*nodes, **constants)))


def test_computed_steps_are_a_problem():
    nodes = (("Relu", ["s0"], "s", {}), *GOOD)
    proto = graph(*nodes, s0=np.float32(0.1))
    kept = [t for t in proto.graph.initializer if t.name != "s"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    assert any("must be constants" in line for line in tensorrt_problems(proto))


def test_images_of_any_number():
    images, proto, expected, _ = build("small_vit")
    function = onnx_function(proto.SerializeToString())
    many = np.tile(images, (3, 1, 1, 1))
    assert function(many).shape == (3 * len(images), expected.shape[1])
    np.testing.assert_allclose(function(images[:1]), expected[:1], rtol=0, atol=1e-2)
    assert jnp.isfinite(function(many)).all()

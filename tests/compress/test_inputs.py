"""Models, variables and batches that do not fit are refused where a user gives them."""

import jax.numpy as jnp
import jaxtyping
import pytest
from small_models import fill

from vit_jax_tricks import compress, export
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model


X, Y = jnp.ones((4, 8, 8, 3)), jnp.arange(4)
RULES = compress.standard_rules()


@pytest.fixture(autouse=True)
def types_as_users_have_them():
    """Without the checks of types that pytest adds."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def small():
    fields = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    model = create_model("vit_tiny_patch16_224", 5, **fields)
    return model, fill(model, X)


@pytest.fixture(scope="module")
def quantised(small):
    model = compress.QuantizedModel(small[0], RULES)
    return model, model.with_any_ranges(small[1])


USES = {
    "prune": lambda *given: compress.prune(*given, [(X, Y)]),
    "calibrate": lambda *given: compress.calibrate(*given, [X], RULES),
    "sensitivity": lambda *given: compress.sensitivity(*given, [(X, Y)], {}, RULES),
    "to_onnx": export.to_onnx,
    "to_onnx_int8": lambda *given: export.to_onnx_int8(*given, {}, RULES),
    "to_stablehlo": export.to_stablehlo,
}


@pytest.mark.parametrize("name", USES)
def test_a_quantised_model_is_not_taken_for_a_float_one(name, small, quantised):
    model, variables = quantised
    with pytest.raises(UserError, match=f"{name}: model is a QuantizedModel; "):
        USES[name](model, variables)
    with pytest.raises(UserError, match=r"without_ranges\(variables\)"):
        USES[name](small[0], variables)
    assert compress.without_ranges(variables).keys() == small[1].keys()


@pytest.mark.parametrize("name", USES)
def test_parameters_alone_are_not_variables(name, small):
    with pytest.raises(UserError, match=f'{name}: variables has no "params"'):
        USES[name](small[0], small[1]["params"])


PAIRS = {
    "one pair": ((X, Y), r"a batch is float32\[4, 8, 8, 3\].*\[\(images, labels\)\]"),
    "images": ([X], "expected a pair"),
    "labels of other classes": ([(X, Y + 2)], "labels has 5, but the model has 5 cl"),
    "nothing": (iter(()), "got no batch"),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_batches_to_prune(case, width, small):
    batches, message = PAIRS[case]
    with pytest.raises(UserError, match=f"^prune:? .*{message}|^prune {message}"):
        compress.prune(*small, batches, width=width)


@pytest.mark.parametrize("case", PAIRS)
def test_batches_of_a_sensitivity(case, small):
    batches, message = PAIRS[case]
    with pytest.raises(UserError, match=message):
        compress.sensitivity(*small, batches, {}, RULES)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (X, r"expected an iterable of batches: give \[images\]"),
        ([(X, Y)], "expected images alone"),
        ([], "got no batch"),
    ],
)
def test_batches_to_calibrate(batches, message, small):
    with pytest.raises(UserError, match=message):
        compress.calibrate(*small, batches, RULES)


@pytest.mark.parametrize("rules", [("a.*", None), [("a.*", "int8")], [("a.*",)]])
def test_what_is_no_rule(rules, small):
    with pytest.raises(UserError, match="is not a quantisation rule"):
        compress.calibrate(*small, [X], rules)


@pytest.mark.parametrize("kinds", ["heads", ()])
def test_kinds_to_prune(kinds, small):
    with pytest.raises(UserError, match=r'expected one or more of .* \("heads",\)'):
        compress.prune(*small, [(X, Y)], kinds=kinds)

"""Wrong shapes and dtypes of the functions on arrays are refused in one line."""

import inspect

import jax.numpy as jnp
import pytest
from refusals import abstractly, assert_all_refused, cases

from vit_jax_tricks.compress import (
    clipping,
    fake_quant,
    grid,
    integer,
    observers,
    ranges,
    scores,
)
from vit_jax_tricks.compress.fake_quant import learned_fake_quant, learned_step


INT8 = grid("int8")
X, CODES = jnp.ones((4, 6)), jnp.ones((4, 6), jnp.int8)
SCALE = jnp.ones((1, 6))
IN_X = [CODES, X > 0, None, [1.0]]
IN_SCALE = [X[0], X[:, :5], SCALE > 0, "1"]
QUANT = (
    {"x": X, "scale": SCALE, "grid": INT8},
    {"x": IN_X, "scale": IN_SCALE, "zero_point": [X[0] > 0, "0"]},
)
HISTOGRAM = observers.empty_histogram(16)
IN_STATE = [
    (HISTOGRAM._replace(counts=X), "state.counts is float32[4, 6]"),
    HISTOGRAM._replace(low=X[0]),
    None,
]
SEEN = (
    {"state": HISTOGRAM, "grid": INT8, "start_bin": 2},
    {"state": IN_STATE},
)
MIN_MAX = (
    {"state": observers.empty_min_max(), "x": X, "axes": (0,)},
    {
        "x": IN_X,
        "state": [
            observers.MinMax(X[0], X[0]),
            (observers.MinMax(X[0], X[0, :2]), "state.high is float32[2]"),
            observers.MinMax(CODES, CODES),
        ],
    },
)
ENDS = (
    {"low": -X[0], "high": 1.0, "grid": INT8},
    {"low": [CODES, None], "high": [(X[0, :2], "as low"), X, X[0] > 0]},
)
ATTENTION = (
    {"weights": jnp.ones((2, 3, 5, 5))},
    {"weights": [X, jnp.ones((2, 3, 5, 5), int)]},
)
HEADS, PROJ = jnp.ones((2, 5, 3, 4)), jnp.ones((3, 4, 8))
IN_PROJ = [(PROJ[:2], "as outputs"), PROJ[:, :3], PROJ[0], PROJ.astype(int)]
TABLE = {
    fake_quant: QUANT,
    learned_fake_quant: QUANT,
    learned_step: ({"x": X, "grid": INT8}, {"x": IN_X}),
    integer.quantize: QUANT,
    integer.dequantize: (
        {"q": CODES, "scale": SCALE},
        {"q": [X > 0, None], "scale": IN_SCALE},
    ),
    integer.integer_dot: (
        {"x": CODES, "kernel": CODES.T, "zero_point": None},
        {"kernel": [(CODES, "as x"), CODES[0]], "x": [CODES > 0]},
    ),
    integer.int8_linear: (
        {
            "x": CODES,
            "kernel": CODES.T,
            "x_scale": 0.1,
            "kernel_scale": X[:, 0],
        },
        {
            "kernel": [CODES],
            "x_scale": [X[0], "1"],
            "kernel_scale": [X[0], X],
            "bias": [X[0], X, CODES[:, 0]],
        },
    ),
    ranges.next_power_of_two: ({"scale": X}, {"scale": [CODES, None]}),
    ranges.affine_range: ENDS,
    ranges.symmetric_range: ENDS,
    observers.min_max: MIN_MAX,
    observers.moving_average: MIN_MAX,
    observers.mean_abs: (
        {"state": observers.empty_mean_abs(), "x": X},
        {"x": IN_X, "state": [observers.MeanAbs(X, X), None]},
    ),
    observers.histogram: (
        {"state": HISTOGRAM, "x": X},
        {"x": IN_X, "state": IN_STATE},
    ),
    clipping.percentile_limits: ({"state": HISTOGRAM}, {"state": IN_STATE}),
    clipping.mse_limits: SEEN,
    clipping.entropy_limits: SEEN,
    clipping.l2_limits: ({"state": HISTOGRAM, "grid": INT8}, {"state": IN_STATE}),
    clipping.sweep_limits: (
        {"x": X, "round_within": lambda low, high: X, "axes": (0,)},
        {"x": IN_X},
    ),
    scores.mean_attention: ATTENTION,
    scores.attention_confidence: ATTENTION,
    scores.attention_entropy: ATTENTION,
    scores.class_attention: ATTENTION,
    scores.head_output_norm: ({"outputs": HEADS, "proj": PROJ}, {"proj": IN_PROJ}),
    scores.gate_gradients: (
        {"outputs": HEADS, "proj": PROJ, "upstream": jnp.ones((2, 5, 8))},
        {"proj": IN_PROJ, "upstream": [jnp.ones((2, 5, 7)), HEADS]},
    ),
    scores.gate_importance: ({"gradients": X}, {"gradients": [X[0, 0], CODES]}),
    scores.normalize_layers: ({"scores": X}, {"scores": [X[0, 0], CODES]}),
    scores.taylor: (
        {"weights": [X, X[0]], "gradients": [X, X[0]], "axes": [1, 0]},
        {"gradients": [[X, X], [X], [CODES, X[0]]]},
    ),
    scores.neuron_output_norm: (
        {"hidden": X, "fc2": X.T},
        {"fc2": [(X, "as hidden"), X[0]], "hidden": [CODES]},
    ),
}


def test_every_function_on_arrays_is_in_the_table():
    found = {fake_quant}
    for module in (integer, ranges, observers, clipping, scores):
        for name, fn in inspect.getmembers(module, inspect.isfunction):
            own = fn.__module__ == module.__name__ and not name.startswith("_")
            if own and not name.startswith("empty_"):
                found.add(fn)
    assert found | {learned_fake_quant, learned_step} == TABLE.keys()


@pytest.mark.parametrize(("fn", "right", "name", "values"), cases(TABLE))
def test_refused_in_one_line(fn, right, name, values):
    assert_all_refused(fn, right, name, values)


@pytest.mark.parametrize("fn", TABLE, ids=lambda fn: fn.__name__)
def test_the_right_arguments_are_not(fn):
    abstractly(fn, TABLE[fn][0])

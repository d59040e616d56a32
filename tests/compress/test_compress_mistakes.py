"""Wrong shapes and dtypes of the functions on arrays are refused in one line."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import abstractly, assert_all_refused, assert_refused, cases

from vit_jax_tricks import compress
from vit_jax_tricks.compress import fake_quant, find_groups, grid, standard_rules
from vit_jax_tricks.compress.pruning import (
    gates,
    pruned,
    scores,
    scoring,
    select,
    width,
)
from vit_jax_tricks.compress.quant import (
    apply,
    calibration,
    clipping,
    integer,
    observers,
    places,
    ranges,
    sensitivity,
)
from vit_jax_tricks.compress.quant.fake_quant import learned_fake_quant, learned_step
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model


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


# Functions on models: tiny ones, whose shapes alone are looked at.

IMAGES = jnp.ones((2, 8, 8, 3))
IN_IMAGES = [
    (jnp.ones((2, 3, 8, 8)), "type jnp.moveaxis(images, 1, -1)"),
    (IMAGES[0], "type images[None]"),
    (jnp.ones((2, 8, 8, 3), jnp.uint8), "type (images / 255 - mean) / std"),
    (jnp.ones((2, 8, 8, 3), int), "expected float [b, h, w, c]"),
    None,
]
LABELS = jnp.zeros(2, jnp.int32)
IN_LABELS = [
    (jnp.zeros(3, jnp.int32), "= [2], as images"),
    (jnp.eye(3)[:2], "type jnp.argmax(labels, -1)"),
    LABELS[:, None],
    LABELS.astype(jnp.float32),
]
RULES = standard_rules()


def tiny(**fields):
    """A model and parameters of its shapes."""
    small = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    model = create_model("vit_tiny_patch16_224", 3, **{**small, **fields})
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return model, jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)


@functools.cache
def model_table():
    """Like `TABLE`, by the function's name."""
    model, variables = tiny()
    groups, deeper = find_groups(model), find_groups(tiny(depth=2)[0])
    in_groups = [
        (deeper, "blocks_1/heads", "no blocks_1/attn"),
        (find_groups(tiny(num_heads=4)[0]), "4 heads in blocks_0/heads"),
        (find_groups(tiny(mlp_ratio=2.0)[0]), "16 hidden units in blocks_0/hidden"),
    ]
    stacked = tiny(scan=True, depth=2)
    heads = jnp.ones((1, 2))
    plan = {"blocks_0/heads": (1,), "blocks_0/hidden": (0, 5)}
    in_plan = [
        ({"blocks_1/heads": (0,)}, 'has "blocks_1/heads", which is not a group'),
        ({"blocks_0/heads": (0, 2)}, "is (0, 2); expected which of its 2 heads stay"),
        ({"blocks_0/heads": (-1,)}, "from 0 to 1"),
        ({"blocks_0/heads": (0, 0)}, "different whole numbers"),
        ({"blocks_0/heads": (False, True)}, "type np.flatnonzero(mask)"),
        {"blocks_0/hidden": tuple(range(33))},
    ]
    found = places.quantized_places(model, variables, IMAGES, RULES)
    steps = {name: ranges.Range(jnp.float32(0.1)) for name in found}
    one, *rest = steps
    ints = steps | {one: ranges.Range(jnp.int32(1))}
    gates = {name: jnp.bool_(True) for name in steps}
    in_gates = [
        ({name: gates[name] for name in rest}, f'has no "{one}"'),
        (gates | {"x": jnp.bool_(True)}, 'ranges has no "x", which gates has'),
        (gates | {one: jnp.float32(1)}, f'gates["{one}"] is float32[]; expected bool'),
        gates | {one: jnp.ones(2, bool)},
    ]
    base = {"model": model, "variables": variables, "images": IMAGES}
    ruled = base | {"rules": RULES}
    quant = ruled | {"ranges": steps}
    return {
        "gated_apply": (
            base | {"groups": groups, "gates": {"blocks_0/heads": heads}},
            {
                "images": IN_IMAGES,
                "groups": in_groups,
                "variables": [(stacked[1], "made with scan=False")],
                "gates": [
                    ({"blocks_0/heads": jnp.ones((1, 3))}, "expected 2 in the last"),
                    ({"blocks_0/heads": jnp.ones((3, 2))}, "[#b, s] = [2, s]"),
                    ({"blocks_0/heads": jnp.ones((1, 2), int)}, "expected float"),
                    ({"blocks_0/heads": jnp.ones(2)}, "is float32[2]"),
                    ({"blocks_0/haeds": heads}, 'Did you mean "blocks_0/heads"?'),
                    ({"blocks_0/heads": [1.0, 0.0]}, "is a list"),
                ],
            },
        ),
        "masked_apply": (
            base | {"groups": groups, "plan": plan},
            {"images": IN_IMAGES, "plan": in_plan},
        ),
        "score_batch": (
            base | {"labels": LABELS, "groups": groups, "criterion": "taylor"},
            {"images": IN_IMAGES, "labels": IN_LABELS, "groups": in_groups},
        ),
        "batch_sums": (
            quant | {"labels": LABELS, "gates": gates},
            {"images": IN_IMAGES, "labels": IN_LABELS},
        ),
        "quantized_apply": (
            quant | {"gates": gates},
            {
                "images": IN_IMAGES,
                "gates": in_gates,
                "ranges": [(ints, "scale is int32[]; expected float")],
            },
        ),
        "observe": (base | {"states": {}, "specs": {}}, {"images": IN_IMAGES}),
        "input_places": (base, {"images": IN_IMAGES}),
        "quantized_places": (ruled, {"images": IN_IMAGES}),
        "shrink": (
            {"variables": variables, "groups": groups, "plan": plan},
            {"plan": in_plan, "groups": in_groups},
        ),
        "pruned_model": (
            {"model": model, "groups": groups, "plan": plan},
            {"plan": in_plan},
        ),
        "narrowed": (
            {"model": model, "variables": variables, "channels": (0, 3)},
            {
                "channels": [
                    ((0, 8), "is (0, 8); expected different"),
                    ((1, 1),),
                    ((-1,),),
                ]
            },
        ),
    }


FUNCTIONS = {
    fn.__name__: fn
    for fn in (
        *(gates.gated_apply, gates.masked_apply, scoring.score_batch),
        *(sensitivity.batch_sums, apply.quantized_apply, calibration.observe),
        *(places.input_places, places.quantized_places, pruned.shrink),
        *(pruned.pruned_model, width.narrowed),
    )
}
SHAPES_ALONE = {"input_places", "quantized_places", "pruned_model", "observe"}


def test_every_function_on_images_is_in_the_table():
    found = {compress.quantized_apply}
    for module in (calibration, places, gates, pruned, scoring):
        found |= {fn for _, fn in inspect.getmembers(module, inspect.isfunction)}
    for module in (select, width, apply, sensitivity):
        found |= {fn for _, fn in inspect.getmembers(module, inspect.isfunction)}
    takes = {"images", "gates", "plan", "channels"}
    inside = {
        fn
        for fn in found
        if fn.__module__.startswith(compress.__name__)
        and fn.__name__[0] != "_"
        and not fn.__module__.endswith("checks")
        and takes & inspect.signature(fn).parameters.keys()
    }
    assert inside == set(FUNCTIONS.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_on_a_model_refuses_in_one_line(name):
    right, wrong = model_table()[name]
    for argument, values in wrong.items():
        assert_all_refused(FUNCTIONS[name], right, argument, values)
    if name not in SHAPES_ALONE:
        abstractly(FUNCTIONS[name], right)
    else:
        FUNCTIONS[name](**right)


def test_images_of_another_size_or_number_of_channels():
    for name, (right, wrong) in model_table().items():
        if "images" in wrong:
            for shape in ((2, 8, 8, 1), (2, 12, 8, 3)):
                assert_refused(
                    FUNCTIONS[name],
                    right | {"images": jnp.ones(shape)},
                    [f"images have shape {shape[1:]}, the model expects (8, 8, 3)"],
                    ("eager",),
                )


def test_batches():
    model, variables = tiny()
    groups, channels_first = find_groups(model), jnp.ones((2, 3, 8, 8))
    for images, labels, part in (
        (channels_first, LABELS, "score_batch: images is float32[2, 3, 8, 8]"),
        (IMAGES, jnp.eye(3)[:2], "score_batch: labels is float32[2, 3]"),
    ):
        arguments = {"batches": [(images, labels)], "criterion": "gradient"}
        arguments |= {"model": model, "variables": variables, "groups": groups}
        assert_refused(scoring.score, arguments, [part], ("eager",))
        del arguments["groups"]
        assert_refused(compress.prune, arguments, [part], ("eager",))
    arguments = {"model": model, "variables": variables, "rules": RULES}
    for batches, part in (
        ([channels_first], "quantized_places: images is float32[2, 3, 8, 8]"),
        ([IMAGES, IMAGES[0]], "observe: images is float32[8, 8, 3]"),
        ([], "calibrate got no batch"),
    ):

        def calibrated(batches=batches):
            return compress.calibrate(model, variables, iter(batches), RULES)

        assert_refused(calibrated, {}, [part], ("eager",))
    for batches, part in (
        ([(IMAGES, jnp.eye(3)[:2])], "batch_sums: labels is float32[2, 3]"),
        ([], "sensitivity got no batch"),
    ):
        given = arguments | {"batches": batches, "ranges": {}}
        assert_refused(sensitivity.sensitivity, given, [part], ("eager",))


def test_criteria():
    right, _ = model_table()["score_batch"]
    arguments = right | {"criterion": "tailor"}
    assert_refused(scoring.score_batch, arguments, ['"tailor" is unknown'])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"scores": {"blocks_0/heads": np.ones(2)}}, 'scores has no "blocks_0/hidden"'),
        ({"costs": {"blocks_0/heads": 1}}, 'costs has no "blocks_0/hidden"'),
        ({"scores": {"blocks_1/heads": np.ones(2)}}, '"blocks_1/heads", which is no'),
        ({"heads": np.ones(3)}, 'scores["blocks_0/heads"] is float64[3]; expected 2'),
        ({"heads": np.array([1, np.nan])}, 'scores["blocks_0/heads"] has nan'),
        ({"heads": np.array([1.0, -2.0])}, 'scores["blocks_0/heads"] has -2.0'),
        ({"multiple": 0}, "multiple=0; expected 1 or more"),
        ({"min_heads": -1}, "min_heads=-1; expected 0 or more"),
    ],
)
def test_scores_and_costs_of_a_selection(changes, part):
    groups = find_groups(tiny()[0])
    given = {"heads": np.ones(2)} | changes
    both = {"blocks_0/heads": given.pop("heads"), "blocks_0/hidden": np.ones(32)}
    costs = dict.fromkeys(groups, 10)
    options = {"scores": both, "costs": costs, "excess": 0, "relative": True} | given
    assert_refused(select.select, {"groups": groups} | options, [part], ["eager"])


def test_a_weight_with_a_range_and_no_spec():
    params = {"kernel": jnp.ones((2, 3))}
    steps = {"kernel": ranges.Range(jnp.float32(0.1))}
    with pytest.raises(UserError, match='specs has no "kernel", which ranges has'):
        apply.quantize_params(params, steps, {})

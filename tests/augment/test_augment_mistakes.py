"""Wrong shapes and dtypes of every public operation are refused in one line."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import abstractly, assert_all_refused, cases, on_device

from configs import common
from vit_jax_tricks import augment
from vit_jax_tricks.augment import mix_token
from vit_jax_tricks.augment.parse import parse_policy
from vit_jax_tricks.errors import UserError


zeros = functools.partial(np.zeros, dtype=np.float32)
B, K = 4, 5
KEY, KEYS = jax.random.key(0), jax.random.split(jax.random.key(0), B)
INDEX = np.arange(B, dtype=np.int32)
LEVELS = np.zeros((B, 8, 10, 3), np.uint8)
FLOATS = LEVELS.astype(jnp.float32)
EACH = zeros(B)
CODES = np.zeros(B, np.int32)
LABELS = zeros((B, K))
DENSE = zeros((B, 2, 2, K))
MATRIX = zeros((B, 6))
GEOMETRY = augment.identity_geometry(B, (8, 10))
DRAW = augment.MixDraw(EACH, np.zeros((B, 4), np.int32), EACH)
IN_KEY = [
    (0, "type jax.random.key(0)"),
    (KEYS, "type jax.random.key(0)"),
    (np.arange(2, dtype=np.int32), "type jax.random.key(0)"),
    (np.zeros(3, np.uint32), "uint32[3]"),
    None,
]
IN_INDEX = [
    (INDEX[:-1], f"int32[{B - 1}]", f"[b] = [{B}], as images"),
    INDEX[:, None],
    INDEX[0],
    EACH,
    (list(range(B)), "jnp.asarray(index)"),
]
CHANNELS_FIRST = (zeros((B, 3, 8, 10)), "jnp.moveaxis(images, 1, -1)")
IN_COPIED = [
    CHANNELS_FIRST,
    (np.zeros((B, 1, 8, 10), np.uint8), "jnp.moveaxis(images, 1, -1)"),
    (LEVELS[0], "type images[None]"),
    LEVELS > 0,
    LEVELS[None],
    None,
]
IN_IMAGES = [
    *IN_COPIED,
    (np.zeros(LEVELS.shape, int), "images.astype(jnp.uint8)"),
    (LEVELS.astype(jnp.int32), "int32[4, 8, 10, 3]; expected uint8 or float"),
    (LEVELS.astype(jnp.uint16), "images.astype(jnp.uint8)"),
    LEVELS.astype(jnp.int8),
    FLOATS.astype(jnp.complex64),
    FLOATS.astype(jnp.float8_e5m2),
]
IN_LABELS = [
    (CODES, "one_hot(ids, k) for class ids"),
    LABELS[:-1],
    zeros((B, K, 2)),
    {"image": LABELS, "tokens": DENSE[:-1]},
    {"image": CODES},
    LABELS.tolist(),
    None,
]
IN_AMOUNT = [EACH[:-1], EACH[:, None], EACH > 0, "1", None]
IN_BOX = [np.zeros((B, 3), np.int32), np.zeros((B - 1, 4), np.int32), MATRIX[:, :4]]


def pictures(**options):
    return {"images": LEVELS, **options}


def drawn(**options):
    """The right and the wrong arguments of what draws for each image."""
    right = {"key": KEY, "images": LEVELS, "index": INDEX, **options}
    return right, {"key": IN_KEY, "images": IN_IMAGES, "index": IN_INDEX}


def with_amount(name):
    return pictures(**{name: 1.0}), {"images": IN_IMAGES, name: IN_AMOUNT}


def mixing(**options):
    right = {"images": FLOATS, "labels": LABELS, **options}
    return right, {"images": IN_IMAGES, "labels": IN_LABELS}


def of_all(pair, **wrong):
    return pair[0], pair[1] | wrong


def operations(*more):
    right = {"images": LEVELS, "op": CODES, "amount": EACH}
    right |= {n: right[n][:, None] for n in ("op", "amount") if more}
    n = right["op"].ndim - 1
    return right, {
        "images": [*IN_COPIED, (FLOATS, "expected uint8 [b, h, w, c]")],
        "op": [right["op"][:-1], right["amount"], right["op"][..., None]],
        "amount": [right["amount"][:-1], right["op"], EACH[0]],
        "interpolation": [
            np.zeros(B + 1, np.int32),
            np.zeros((B,) + (2,) * (n + 1), np.int32),
        ],
    }


ALONE = {"degrees": EACH}, {"degrees": [CODES, EACH[:, None], 1.0]}
TABLE = {
    augment.bilinear_sample: (
        pictures(y=EACH[:, None, None], x=EACH[:, None, None]),
        {"images": IN_IMAGES, "y": [EACH, EACH[:-1, None, None]], "x": [EACH]},
    ),
    augment.random_affine: drawn(degrees=3.0),
    augment.random_affine_matrix: (
        {"key": KEY, "index": INDEX, "size": (8, 10)},
        {"key": IN_KEY, "index": [EACH, INDEX[0]]},
    ),
    augment.aug_mix: drawn(),
    augment.auto_augment: drawn(),
    augment.rand_augment: drawn(),
    augment.three_augment: drawn(),
    augment.trivial_augment: drawn(),
    augment.gaussian_blur: with_amount("sigma"),
    augment.color_jitter: drawn(),
    augment.random_pad_crop: of_all(drawn(pad=2), images=IN_COPIED),
    augment.adjust_brightness: with_amount("factor"),
    augment.adjust_contrast: with_amount("factor"),
    augment.adjust_saturation: with_amount("factor"),
    augment.adjust_sharpness: with_amount("factor"),
    augment.adjust_hue: with_amount("turn"),
    augment.grayscale: (pictures(), {"images": IN_IMAGES}),
    augment.invert: (pictures(), {"images": IN_IMAGES}),
    augment.equalize: (pictures(), {"images": IN_IMAGES}),
    augment.auto_contrast: (pictures(), {"images": IN_IMAGES}),
    augment.posterize: with_amount("bits"),
    augment.solarize: with_amount("threshold"),
    augment.solarize_add: with_amount("amount"),
    augment.erase_boxes: (
        pictures(boxes=np.zeros((B, 2, 4), np.int32), noise=FLOATS[:, None]),
        {
            "images": IN_COPIED,
            "boxes": [np.zeros((B, 4), np.int32), np.zeros((B - 1, 2, 4), np.int32)],
            "noise": [FLOATS, FLOATS[:2, None], FLOATS[:, None, :4]],
        },
    ),
    augment.random_erasing: drawn(),
    augment.random_erasing_boxes: ({"key": KEY, "size": (8, 10)}, {"key": IN_KEY}),
    augment.random_flip: of_all(drawn(), images=IN_COPIED),
    augment.random_flips: (
        {"key": KEY, "index": INDEX},
        {"key": IN_KEY, "index": [EACH, INDEX[None]]},
    ),
    augment.apply_to_boxes: (
        {"geometry": GEOMETRY, "boxes": zeros((B, 2, 4))},
        {
            "boxes": [zeros((B, 4)), zeros((B - 1, 2, 4))],
            "geometry": [GEOMETRY.replace(flip=EACH), GEOMETRY.replace(cut=EACH), None],
        },
    ),
    augment.apply_to_dense: (
        {"geometry": GEOMETRY, "maps": DENSE},
        {
            "maps": [
                (DENSE[:-1], "as geometry.box"),
                DENSE[0],
                (DENSE.astype(np.int32), 'interpolation="nearest"'),
                (DENSE > 0, 'interpolation="nearest"'),
            ],
            "geometry": [GEOMETRY.replace(box=EACH), DENSE],
        },
    ),
    augment.blend: (
        {"images": FLOATS, "labels": LABELS, "weights": FLOATS[..., 0], "lam": EACH},
        {
            "images": IN_IMAGES,
            "labels": [LABELS[:-1], (CODES, "one_hot")],
            "weights": [FLOATS, FLOATS[:2, :, :, 0], FLOATS[..., :5, 0]],
            "lam": [EACH[:-1], LABELS, 0.5],
        },
    ),
    augment.mixup: of_all(mixing(key=KEY), key=IN_KEY),
    augment.cutmix: of_all(mixing(key=KEY), key=IN_KEY),
    augment.mixup_or_cutmix: of_all(mixing(key=KEY), key=IN_KEY),
    augment.mixup_with: of_all(mixing(lam=EACH), lam=[EACH[:-1], LABELS, CODES, None]),
    augment.cutmix_with: of_all(
        mixing(box=DRAW.box, lam=0.5), box=IN_BOX, lam=[EACH[:-1], CODES, "x"]
    ),
    augment.mix_with: of_all(
        mixing(draw=DRAW),
        draw=[
            DRAW._replace(box=DRAW.box[:2]),
            (DRAW._replace(share=CODES), "draw.share is int32"),
            None,
        ],
    ),
    augment.mix_weights: (
        {"key": KEY, "size": (8, 10), "mixup_alpha": 1.0, "cutmix_alpha": 0.0},
        {"key": IN_KEY},
    ),
    augment.draw_mix: ({"key": KEY, "batch": B, "size": (8, 10)}, {"key": IN_KEY}),
    augment.cutmix_box: (
        {"lam": EACH[0], "centre": CODES[:2], "size": (8, 10)},
        {"lam": [EACH, CODES[0]], "centre": [CODES[:3], EACH[:2]]},
    ),
    mix_token.mix_token_box: (
        {"lam": EACH[0], "centre": CODES[:2], "size": (8, 10)},
        {"lam": [EACH, CODES[0]], "centre": [CODES[:3], EACH[:2]]},
    ),
    mix_token.random_box: ({"key": KEY, "size": (8, 10)}, {"key": IN_KEY}),
    mix_token.mix_tokens: (
        {"x": DENSE, "box": CODES},
        {"x": [DENSE[0], DENSE.astype(np.int32)], "box": [CODES[:3], EACH, DRAW.box]},
    ),
    augment.apply_operation: operations(),
    augment.apply_operations: operations("many"),
    augment.operation_matrix: (
        {"op": CODES, "amount": EACH, "size": (8, 10)},
        {"op": [EACH], "amount": [EACH[:-1], CODES]},
    ),
    augment.apply_policy: drawn(policy=parse_policy("rand-m9")),
    augment.draw: (
        {"policy": parse_policy("rand-m9"), "keys": KEYS, "size": (8, 10)},
        {"keys": [KEY, INDEX, np.zeros((B, 3), np.uint32)]},
    ),
    augment.crop_and_resize: (
        pictures(box=DRAW.box + 5, size=(4, 4), resized=None, offset=None),
        {
            "images": IN_IMAGES,
            "box": IN_BOX,
            "resized": [DRAW.box, DRAW.box[0, :2], DRAW.box[:-1, :2]],
            "offset": [MATRIX[:, :2], DRAW.box],
            "interpolation": [CODES[:-1], EACH, 2],
        },
    ),
    augment.random_resized_crop: drawn(size=(4, 4)),
    augment.random_or_center_crop: drawn(size=4),
    augment.simple_random_crop: drawn(size=6),
    augment.resize_center_crop: (pictures(size=4), {"images": IN_IMAGES}),
    augment.random_resized_box: (
        {"key": KEY, "source": (8, 10)},
        {"key": IN_KEY, "source": [CODES, EACH[:2]]},
    ),
    augment.affine_warp: (
        pictures(matrix=MATRIX, fill=0.0),
        {
            "images": [*IN_COPIED, LEVELS.astype(np.int32), LEVELS.astype(jnp.uint16)],
            "matrix": [MATRIX[:-1], MATRIX[0], MATRIX[:, :4], MATRIX.astype(np.int32)],
            "fill": [EACH, FLOATS],
            "interpolation": [CODES[:-1], EACH],
        },
    ),
    augment.rotate_matrix: (ALONE[0] | {"size": (8, 10)}, ALONE[1]),
    augment.shear_x_matrix: ({"amount": EACH}, {"amount": ALONE[1]["degrees"]}),
    augment.shear_y_matrix: ({"amount": EACH}, {"amount": ALONE[1]["degrees"]}),
    augment.translate_matrix: (
        {"x": EACH, "y": EACH},
        {"x": [CODES], "y": [EACH[:-1], EACH[:, None]]},
    ),
}
TABLE = on_device(TABLE)
# These take no arrays.
OTHERS = {"from_config", "identity_geometry", "parse_policy", "stages", "training_size"}


def test_every_public_operation_is_in_the_table():
    tokens = inspect.getmembers(mix_token, inspect.isfunction)
    functions = {name: getattr(augment, name) for name in augment.__all__}
    here = mix_token.__name__
    functions |= {name: fn for name, fn in tokens if fn.__module__ == here}
    known = {name: fn for name, fn in functions.items() if inspect.isfunction(fn)}
    assert {fn for name, fn in known.items() if name not in OTHERS} == TABLE.keys()


@pytest.mark.parametrize(("fn", "right", "name", "values"), cases(TABLE))
def test_refused_in_one_line(fn, right, name, values):
    assert_all_refused(fn, right, name, values)


LONG_TRACES = {"auto_augment", "rand_augment", "three_augment", "aug_mix"}


@pytest.mark.parametrize(
    "fn",
    [
        pytest.param(
            fn,
            id=fn.__name__,
            marks=[pytest.mark.slow] if fn.__name__ in LONG_TRACES else [],
        )
        for fn in TABLE
    ],
)
def test_the_right_arguments_are_not(fn):
    right = TABLE[fn][0]
    abstractly(fn, right)
    for kind, name in ((3, "images"), (1, "images"), (np.int64, "index")):
        if kind in (1, 3) and name in right:  # grey, and floats of half precision
            images = right["images"]
            half = images if images.dtype == jnp.uint8 else images.astype(jnp.bfloat16)
            noise = {"noise": FLOATS[:, None, ..., :kind]} if "noise" in right else {}
            abstractly(fn, right | {"images": half[..., :kind]} | noise)
        elif name in right:
            abstractly(fn, right | {"index": np.arange(B, dtype=np.int64)})


def test_the_functions_of_a_stack():
    settings = dict(common.get_config().augment, flip=True, mixup=1.0, erasing=0.5)
    stack = augment.from_config(mean=(0.5,) * 3, **settings)
    right = {"key": KEY, "images": LEVELS, "index": INDEX}
    for fn in (stack.augment, stack.erase):
        for name, wrong in (("images", CHANNELS_FIRST[0]), ("index", INDEX[:-1])):
            with pytest.raises(UserError, match=f"{name} is"):
                fn(*(right | {"images": FLOATS, name: wrong}).values())
    with pytest.raises(UserError, match="one_hot"):
        stack.mix(KEY, FLOATS, CODES)

"""Wrong shapes and dtypes of every public loss are refused in one line."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from refusals import abstractly, assert_all_refused, assert_refused, cases

from vit_jax_tricks import losses


B, K = 4, 6
X = jnp.zeros((B, K))
IDS = jnp.zeros(B, int)
# Class ids, where b may be k; another batch; other classes; booleans; no array.
IN_LABELS = [
    (
        IDS,
        f"expected number or bool [*b, k] = [{B}, {K}], as logits",
        f"one_hot(ids, {K})",
    ),
    (IDS[:, None], f"one_hot(ids, {K})"),
    (X[:, :1], f"float32[{B}, 1]", f"one_hot(ids, {K})"),
    (X[:, 0], f"one_hot(ids, {K})"),
    X[:-1],
    X[:, :-1],
    X[None],
    X.astype(complex),
    ([[0.0] * K] * B, "jnp.asarray(labels)"),
    None,
    0.5,
]
IN_LOGITS = [X.astype(int), X[0], X[:, :1], None]
IN_WHERE = [
    (jnp.ones((B, 1), bool), "type where[..., 0]"),
    (jnp.ones(B), "type where > 0"),
    (jnp.ones(B, int), "type where > 0"),
    jnp.ones(B - 1, bool),
    jnp.ones((B, K), bool),
    [True] * B,
]
TEACHER = [X[:, :-1], X[:, :1], X[:-1], X[0], X.astype(int), None]
ON_LABELS = (
    {"logits": X, "labels": X, "where": None},
    {"labels": IN_LABELS, "where": IN_WHERE, "logits": [X.astype(int), None]},
)
ON_TEACHER = (
    {"logits": X, "teacher_logits": X, "where": None},
    {"teacher_logits": TEACHER, "where": IN_WHERE},
)
PAIRS = {"image_features": X, "text_features": X, "scale": 1.0, "bias": X[0, 0]}
IN_PAIRS = {
    "text_features": [X[:-1], X[:, :-1], X[0], X.astype(int)],
    "scale": [X[0], "1", IDS[0]],
    "bias": [X[0], None],
}
MAPS, BOXES = jnp.zeros((B, 3, 5, K)), jnp.zeros((B, 4))
TOP = jnp.zeros((B, 3, 5, 2), int)
TOKENS = jnp.zeros((B, 7, K))
TABLE = {
    losses.softmax_cross_entropy: ON_LABELS,
    losses.focal: ON_LABELS,
    losses.focal_pt: ON_LABELS,
    losses.focal_modulated: ON_LABELS,
    losses.focal_of_cross_entropy: ON_LABELS,
    losses.smoothed_focal: ON_LABELS,
    losses.kl_divergence: ON_LABELS,
    losses.sigmoid_binary_cross_entropy: (
        {**ON_LABELS[0], "weight": X[0], "pos_weight": 2.0},
        {
            **ON_LABELS[1],
            "weight": [X[:, 0], X, 1.0],
            "pos_weight": [(X[:, 0], "or a number"), X],
        },
    ),
    losses.smooth_labels: (
        {"labels": X, "smoothing": 0.1},
        {"labels": [None, jnp.float32(1), jax.random.split(jax.random.key(0), 3)]},
    ),
    losses.soft_distillation: ON_TEACHER,
    losses.hard_distillation: ON_TEACHER,
    losses.feature_distillation: (
        {"features": TOKENS, "teacher_features": TOKENS, "where": None},
        {
            "teacher_features": [TOKENS[:, :1], TOKENS[0], TOKENS[..., :1]],
            "where": [jnp.ones(B, bool), jnp.ones((B, 7)), jnp.ones((B, 7, 1), bool)],
        },
    ),
    losses.symmetric_kl: (
        {"logits": X, "other_logits": X, "where": None},
        {"other_logits": TEACHER, "where": IN_WHERE},
    ),
    losses.clip_contrastive: (PAIRS, IN_PAIRS),
    losses.siglip_contrastive: (PAIRS, IN_PAIRS),
    losses.jensen_shannon: (
        {"logits": jnp.stack([X, X, X]), "where": None},
        {"logits": [X[0], jnp.stack([X, X]).astype(int)], "where": IN_WHERE},
    ),
    losses.keep_ratio: (
        {"keep": jnp.ones((1, B, 7)), "ratios": (0.5,)},
        {"keep": [jnp.ones((B, 7)), jnp.ones((1, B, 7, 1)), jnp.ones((1, B, 7), int)]},
    ),
    losses.mean_where: (
        {"values": X[:, 0], "where": None},
        {"values": [None, X > 0], "where": IN_WHERE[1:]},
    ),
    losses.roi_align: (
        {"maps": MAPS, "boxes": BOXES, "size": (2, 2)},
        {
            "maps": [MAPS[0], MAPS.astype(int)],
            "boxes": [BOXES[:-1], BOXES[0], BOXES[:, :3], BOXES.astype(int)],
        },
    ),
    losses.dense_scores: (
        {"scores": TOP.astype(float), "classes": TOP, "num_classes": K},
        {"classes": [TOP.astype(float), TOP[:-1], TOP[..., :1]], "scores": [TOP]},
    ),
    losses.token_label_targets: (
        {
            "scores": TOP.astype(float),
            "classes": TOP,
            "boxes": BOXES,
            "num_classes": K,
            "size": (2, 2),
        },
        {"classes": [TOP[:, :1], TOP[0]], "boxes": [BOXES[:1], BOXES[:, :2]]},
    ),
    losses.mix_class_labels: (
        {"labels": X, "lam": 0.5},
        {"labels": [IDS, X[0]], "lam": [X[0], X, IDS[0], None]},
    ),
    losses.corrected_class_labels: (
        {"class_labels": X, "true_labels": X},
        {"true_labels": [(IDS, f"one_hot(ids, {K})"), X[:, :1], X[:-1]]},
    ),
    losses.token_label_cross_entropy: (
        {
            "logits": X,
            "dense_logits": TOKENS,
            "class_labels": X,
            "token_labels": TOKENS,
            "where": None,
        },
        {
            "class_labels": [(IDS, f"one_hot(ids, {K})"), X[:, :1]],
            "token_labels": [TOKENS[:, :1], TOKENS[..., 0], X],
            "dense_logits": [TOKENS[:-1], TOKENS[..., :-1]],
            "where": [jnp.ones(B, bool), jnp.ones((B, 7)), jnp.ones((B, 6), bool)],
        },
    ),
}


def test_every_public_loss_is_in_the_table():
    functions = (getattr(losses, name) for name in losses.__all__)
    assert {fn for fn in functions if inspect.isfunction(fn)} == TABLE.keys()


@pytest.mark.parametrize(("fn", "right", "name", "values"), cases(TABLE))
def test_refused_in_one_line(fn, right, name, values):
    assert_all_refused(fn, right, name, values)


@pytest.mark.parametrize("fn", TABLE, ids=lambda fn: fn.__name__)
def test_the_right_arguments_are_not(fn):
    abstractly(fn, TABLE[fn][0])


@pytest.mark.parametrize(
    "fn", [fn for fn, right in TABLE.items() if right is ON_LABELS]
)
def test_as_many_images_as_classes_do_not_hide_class_ids(fn):
    square = X[:, :B]
    for ids in (IDS, square[:, 0]):
        assert_refused(fn, {"logits": square, "labels": ids}, [f"one_hot(ids, {B})"])


def test_one_hot_labels_of_whole_numbers_are_numbers():
    labels = jnp.eye(B, K, dtype=int)
    logits = jnp.arange(B * K, dtype=jnp.float32).reshape(B, K) % 5
    for fn, right in TABLE.items():
        if right is ON_LABELS:
            want = fn(logits=logits, labels=labels.astype(jnp.float32))
            assert (fn(logits=logits, labels=labels) == want).all()

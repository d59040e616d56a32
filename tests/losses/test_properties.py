"""What every loss does: pure, finite, float32 or better, silent where masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_checks import assert_finite, assert_pure

from vit_jax_tricks import losses


ON_LABELS = {
    "softmax": losses.softmax_cross_entropy,
    "softmax smoothed": functools.partial(losses.softmax_cross_entropy, smoothing=0.1),
    "sigmoid": losses.sigmoid_binary_cross_entropy,
    "sigmoid with options": functools.partial(
        losses.sigmoid_binary_cross_entropy,
        smoothing=0.1,
        target_threshold=0.2,
        weight=np.linspace(0, 1, 5),
        pos_weight=2,
        sum_classes=True,
    ),
    "focal": losses.focal,
    "focal_pt": losses.focal_pt,
    "focal_modulated": losses.focal_modulated,
    "focal_of_cross_entropy": losses.focal_of_cross_entropy,
    "smoothed_focal": losses.smoothed_focal,
    "kl": losses.kl_divergence,
}
ON_TEACHER = {
    "soft": losses.soft_distillation,
    "soft deit": functools.partial(losses.soft_distillation, tau=1, scaling="deit"),
    "hard": functools.partial(losses.hard_distillation, smoothing=0.1),
}
PAIRED = {
    **{name: (loss, "logits", "labels") for name, loss in ON_LABELS.items()},
    **{name: (loss, "logits", "teacher_logits") for name, loss in ON_TEACHER.items()},
    "symmetric": (losses.symmetric_kl, "logits", "other_logits"),
    "feature": (losses.feature_distillation, "features", "teacher_features"),
}
paired = pytest.mark.parametrize(("loss", "by", "target"), PAIRED.values(), ids=PAIRED)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def two(by, target, *shape):
    labels = normal(1, *shape)
    if target == "labels":
        labels = jax.nn.softmax(2 * labels, axis=-1)
    return {by: normal(0, *shape), target: labels}


@paired
def test_pure_with_any_leading_axes(loss, by, target):
    arrays = two(by, target, 3, 4, 5)
    each = loss(**arrays)
    assert each.shape == (3, 4)
    assert_pure(loss, arrays)
    flat = loss(**{k: v.reshape(12, 5) for k, v in arrays.items()})
    np.testing.assert_allclose(each.reshape(12), flat, rtol=1e-6)


@paired
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_finite_in_float32_for_huge_inputs(loss, by, target, dtype):
    """Logits of +-1e4 with one-hot, even, zero and mixed targets, also of them."""
    rows = [[1e4, -1e4, 0, 1, 1e4], [-1e4] * 5, [0] * 5, [1e4, 0, 0, 0, 0]]
    logits = jnp.asarray(np.repeat(rows, 4, axis=0), dtype)
    if target == "labels":
        labels = [[0, 1, 0, 0, 0], [0.2] * 5, [0] * 5, [0.5, 0, 0.5, 0, 0]]
    else:
        labels = [[-1e4, 1e4, 0, 0, 0], [1e4] * 5, [0] * 5, [0, 0, -1e4, 0, 0]]
    arrays = {by: logits, target: jnp.asarray(labels * 4, dtype)}
    assert jax.eval_shape(loss, **arrays).dtype == jnp.float32
    assert_finite(loss, arrays, by)
    if target == "labels":
        assert_finite(loss, arrays, target)


@paired
def test_where_silences_even_nan(loss, by, target):
    arrays = two(by, target, 2, 3, 5)
    where = jnp.array([[True, False, True], [False, False, True]])
    spoiled = {k: jnp.where(where[..., None], v, jnp.nan) for k, v in arrays.items()}
    for mask, given in ((where, spoiled), (jnp.zeros_like(where), spoiled)):
        masked = functools.partial(loss, where=mask)
        want = np.where(mask, loss(**arrays), 0)
        np.testing.assert_allclose(masked(**given), want, rtol=1e-6)
        assert_finite(masked, given, by)


@pytest.mark.parametrize("dtype", ["float64"])
@paired
def test_gradient_is_the_slope(loss, by, target, dtype):
    arrays = {k: v.astype(dtype) for k, v in two(by, target, 3, 5).items()}
    direction = normal(2, 3, 5).astype(dtype)

    @jax.jit
    def of(x):
        return loss(**arrays | {by: x})

    _, slope = jax.jit(lambda x: jax.jvp(of, (x,), (direction,)))(arrays[by])
    up, down = (of(arrays[by] + e * direction) for e in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-9)


OTHERS = {
    "jensen_shannon": (losses.jensen_shannon, {"logits": (3, 4, 5)}),
    "keep_ratio": (
        functools.partial(losses.keep_ratio, ratios=(0.7, 0.5)),
        {"keep": (2, 4, 5)},
    ),
    "keep_ratio per batch": (
        functools.partial(losses.keep_ratio, ratios=(1, 0), per_batch=True),
        {"keep": (2, 4, 5)},
    ),
    "clip": (
        functools.partial(losses.clip_contrastive, scale=10, smoothing=0.1),
        {"image_features": (4, 5), "text_features": (4, 5)},
    ),
    "siglip": (
        functools.partial(losses.siglip_contrastive, scale=10, bias=-10),
        {"image_features": (4, 5), "text_features": (4, 5)},
    ),
    "token_label": (
        losses.token_label_cross_entropy,
        {
            "logits": (4, 5),
            "dense_logits": (4, 3, 5),
            "class_labels": (4, 5),
            "token_labels": (4, 3, 5),
        },
    ),
    "corrected": (
        losses.corrected_class_labels,
        {"class_labels": (4, 5), "true_labels": (4, 5)},
    ),
}


@pytest.mark.parametrize(("loss", "shapes"), OTHERS.values(), ids=OTHERS)
def test_the_others_are_pure_and_finite(loss, shapes):
    arrays = {name: normal(i, *s) for i, (name, s) in enumerate(shapes.items())}
    assert len(loss(**arrays)) == 4
    assert_pure(loss, arrays)
    for dtype in (jnp.bfloat16, jnp.float32):
        huge = {k: (1e4 * jnp.sign(v)).astype(dtype) for k, v in arrays.items()}
        assert jax.eval_shape(loss, **huge).dtype == jnp.float32
        for by in arrays:
            assert_finite(loss, huge, by)


def test_token_labels_of_some_tokens_or_none():
    shapes = OTHERS["token_label"][1]
    arrays = {name: normal(i, *s) for i, (name, s) in enumerate(shapes.items())}
    where = jnp.zeros((4, 3), bool).at[0, 1].set(True)
    got = losses.token_label_cross_entropy(**arrays, class_weight=0, where=where)
    want = losses.softmax_cross_entropy(
        logits=arrays["dense_logits"][0, 1], labels=arrays["token_labels"][0, 1]
    )
    np.testing.assert_allclose(got, [want, 0, 0, 0], rtol=1e-6)


@pytest.mark.slow
def test_targets_are_pure():
    classes = jnp.asarray(np.random.default_rng(0).integers(0, 6, (2, 5, 5, 1)))

    def targets(scores, boxes):
        image, tokens = losses.token_label_targets(
            scores=scores, classes=classes, boxes=boxes, num_classes=6, size=(3, 2)
        )
        return jnp.concatenate([image[:, None], tokens.reshape(2, 6, 6)], axis=1)

    boxes = jnp.asarray([[0, 0.1, 0.5, 0.6], [0.2, 0.3, 0.8, 0.7]])
    arrays = {"scores": normal(0, 2, 5, 5, 1), "boxes": boxes}
    assert_pure(targets, arrays)
    np.testing.assert_allclose(targets(**arrays).sum(-1), 1, rtol=1e-5)
    assert_finite(targets, arrays | {"scores": 1e4 * arrays["scores"]}, "scores")

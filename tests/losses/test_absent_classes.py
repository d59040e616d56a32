"""Logits of -inf for classes without a label: as if there were no such classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_tricks import losses


K, GONE = 6, (1, 4)
HERE = [k for k in range(K) if k not in GONE]
share = len(HERE) / K  # of losses that are means over classes
BCE = losses.sigmoid_binary_cross_entropy
ON_LABELS = {
    "softmax": (losses.softmax_cross_entropy, 1),
    "softmax smoothed": (
        functools.partial(losses.softmax_cross_entropy, smoothing=0.2),
        1,
    ),
    "sigmoid": (BCE, share),
    "sigmoid smoothed": (functools.partial(BCE, smoothing=0.2), share),
    "sigmoid smoothed by halves": (
        functools.partial(BCE, binary_smoothing=0.2, sum_classes=True),
        1,
    ),
    "sigmoid over a threshold": (
        functools.partial(BCE, smoothing=0.1, target_threshold=0.2),
        share,
    ),
    "focal": (losses.focal, 1),
    "focal_pt": (losses.focal_pt, 1),
    "focal_modulated": (losses.focal_modulated, 1),
    "focal_of_cross_entropy": (losses.focal_of_cross_entropy, 1),
    "smoothed_focal": (losses.smoothed_focal, 1),
    "kl": (losses.kl_divergence, 1),
}
on_labels = pytest.mark.parametrize(
    ("loss", "factor"), ON_LABELS.values(), ids=ON_LABELS
)


def drawn(seed):
    """Logits of all classes with those gone at -inf; soft and one-hot labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, K)).astype(np.float32)
    logits[:, GONE] = -np.inf
    labels = np.zeros((4, K), np.float32)
    labels[:2, HERE] = rng.dirichlet(np.ones(len(HERE)), 2)
    labels[[2, 3], [0, 5]] = 1
    return jnp.asarray(logits), jnp.asarray(labels)


def assert_as_without(loss, arrays, by, factor=1):
    """Loss and gradients are those of the classes that are here."""
    few = {name: x[..., np.array(HERE)] for name, x in arrays.items()}

    def total(x, other, **rest):
        each = loss(**{by: x, **rest}, **other)
        return each.sum(), each

    one, want = (
        jax.jit(jax.value_and_grad(total, has_aux=True))(
            group[by], {name: x for name, x in group.items() if name != by}
        )
        for group in (arrays, few)
    )
    (_, each), grad = one
    (_, each_want), grad_want = want
    np.testing.assert_allclose(each, factor * each_want, rtol=1e-6, atol=1e-6)
    there = grad[..., np.array(HERE)]
    np.testing.assert_allclose(there, factor * grad_want, rtol=1e-5, atol=1e-6)
    assert bool(jnp.isfinite(grad).all())


@on_labels
def test_of_labels(loss, factor):
    logits, labels = drawn(0)
    assert_as_without(loss, {"logits": logits, "labels": labels}, "logits", factor)
    slope = jax.grad(lambda q: loss(logits=logits, labels=q).sum())
    by_labels = jax.jit(slope)(labels)
    assert bool(jnp.isfinite(by_labels).all())


def test_by_hand():
    """-log of the share of exp(2) among exp(2) and exp(1), smoothed over the two."""
    logits, labels = jnp.array([[2.0, -jnp.inf, 1.0]]), jnp.array([[1.0, 0.0, 0.0]])
    log_p = 2 - np.log(np.exp(2) + np.exp(1)), 1 - np.log(np.exp(2) + np.exp(1))
    loss = losses.softmax_cross_entropy
    np.testing.assert_allclose(loss(logits=logits, labels=labels), -log_p[0], 1e-6)
    smoothed = loss(logits=logits, labels=labels, smoothing=0.2)
    np.testing.assert_allclose(smoothed, -0.9 * log_p[0] - 0.1 * log_p[1], 1e-6)


def test_a_label_on_a_class_that_cannot_be_is_infinitely_wrong():
    logits = jnp.array([[2.0, -jnp.inf, 1.0]])
    labels = jnp.array([[0.0, 1.0, 0.0]])
    for loss, _ in ON_LABELS.values():
        assert not bool(jnp.isnan(loss(logits=logits, labels=labels)).any())
    assert losses.softmax_cross_entropy(logits=logits, labels=labels)[0] == jnp.inf


@pytest.mark.parametrize("scaling", losses.SCALINGS)
@pytest.mark.parametrize("both", [False, True], ids=["teacher", "both"])
def test_of_a_teacher(scaling, both):
    teacher, _ = drawn(1)
    logits = (
        drawn(2)[0] if both else jnp.where(jnp.isinf(drawn(2)[0]), 0.3, drawn(2)[0])
    )
    loss = functools.partial(losses.soft_distillation, scaling=scaling)
    arrays = {"logits": logits, "teacher_logits": teacher}
    if both:
        factor = share if scaling == "deit" else 1
        assert_as_without(loss, arrays, "logits", factor)
        return
    log_p = jax.nn.log_softmax(logits / 3)[:, np.array(HERE)]
    log_q = jax.nn.log_softmax(teacher[:, np.array(HERE)] / 3)
    want = 9 * (jnp.exp(log_q) * (log_q - log_p)).sum(-1)
    want = want / K if scaling == "deit" else want
    slope = jax.grad(lambda z: loss(logits=z, teacher_logits=teacher).sum())
    np.testing.assert_allclose(jax.jit(loss)(**arrays), want, rtol=2e-6)
    grad = jax.jit(slope)(logits)
    assert bool(jnp.isfinite(grad).all())


def test_a_hard_teacher():
    arrays = {"logits": drawn(2)[0], "teacher_logits": drawn(1)[0]}
    for smoothing in (0.0, 0.1):
        loss = functools.partial(losses.hard_distillation, smoothing=smoothing)
        assert_as_without(loss, arrays, "logits")


def test_of_two_predictions():
    """A class that only one of two predictions allows is infinitely wrong."""
    arrays = {"logits": drawn(1)[0], "other_logits": drawn(2)[0]}
    for by in arrays:
        assert_as_without(losses.symmetric_kl, arrays, by)
    arrays["logits"] = jnp.zeros_like(arrays["logits"])
    assert bool(jnp.isposinf(losses.symmetric_kl(**arrays)).all())


def test_of_views():
    views = jnp.stack([drawn(seed)[0] for seed in (3, 4, 5)])
    assert_as_without(losses.jensen_shannon, {"logits": views}, "logits")


def test_of_tokens():
    logits, labels = drawn(6)
    arrays = {
        "logits": logits,
        "class_labels": labels,
        "dense_logits": jnp.stack([logits, logits[::-1]], axis=1),
        "token_labels": jnp.stack([labels, labels], axis=1),
    }
    for by in ("logits", "dense_logits"):
        assert_as_without(losses.token_label_cross_entropy, arrays, by)

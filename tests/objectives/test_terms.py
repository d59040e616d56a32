"""The terms of an objective: references composed in a config, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load_golden

from vit_jax_tricks import losses
from vit_jax_tricks.config import Section
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.objectives.term import Readings


_, TOKENS = load_golden("losses/token_label")
_, DEIT = load_golden("losses/deit_distillation")
_, DYNAMIC = load_golden("losses/dynamicvit_distill")
LOGITS = jnp.asarray([[2, -1, 0.5, 0, -0.5], [0.1, 0.2, 0.3, 0.4, 0.5]])
LABELS = jnp.asarray(np.eye(5)[[0, 3]], jnp.float32)
CLASSIFICATION = {"name": "softmax", "weight": 1.0, "smoothing": 0.0}


def total(sections, *, logits=LOGITS, aux=None, labels=LABELS, targets=None):
    readings = Readings(
        logits=logits, aux=aux or {}, labels=labels, targets=targets or {}
    )
    loss, _ = Objective(sections)(readings)
    assert loss.shape == logits.shape[:1]
    return loss


def floats(golden, *names):
    return (jnp.asarray(golden[name], jnp.float64) for name in names)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"name": "softmax", "smoothing": 0.1}, 1.05420947),
        ({"name": "focal"}, 0.12129460),
        ({"name": "focal_pt"}, 0.12129460),
        ({"name": "focal_modulated", "alpha": 0.5}, 2 * 0.12129460),
        ({"name": "focal_of_cross_entropy"}, 0.12129460),
        ({"name": "smoothed_focal", "smoothing": 0.1}, 0.77433503),
        ({"name": "smoothed_focal", "smoothing": 0.1, "focal_weight": 0.0}, 1.05420947),
    ],
)
def test_classification_by_name(options, want):
    got = total({"classification": {"weight": 2.0, **options}})
    np.testing.assert_allclose(got.mean(), 2 * want, rtol=1e-6)


def test_options_of_the_sigmoid_loss():
    mixed = 0.7 * LABELS + 0.3 * LABELS[::-1]
    section = {"name": "sigmoid", "target_threshold": 0.0, "sum_classes": True}
    got = total({"classification": section}, labels=mixed)
    both = jnp.asarray([[1.0, 0, 0, 1, 0]] * 2)
    want = 5 * losses.sigmoid_binary_cross_entropy(logits=LOGITS, labels=both)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(UserError, match="set smoothing=0"):
        total({"classification": section | {"smoothing": 0.1}})


def test_share_of_the_second_head():
    aux = {"logits_dist": -LOGITS}
    one, two = (
        losses.softmax_cross_entropy(logits=z, labels=LABELS) for z in (LOGITS, -LOGITS)
    )
    for share in (0.5, 0.25, 0):
        section = CLASSIFICATION | ({} if share == 0.5 else {"dist_weight": share})
        got = total({"classification": section}, aux=aux)
        np.testing.assert_allclose(got, (1 - share) * one + share * two, rtol=1e-6)


def test_a_section_of_a_config_is_read_whole():
    section = Section({"classification": CLASSIFICATION})
    total(section)
    section.assert_all_read()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["soft", "hard"])
def test_deit_distillation(name):
    names = ("outputs", "outputs_kd", "teacher_logits", "soft_targets")
    logits, second, teacher, labels = floats(DEIT, *names)
    options = {"tau": 3.0, "scaling": "deit"} if name == "soft" else {}
    sections = {
        "classification": CLASSIFICATION | {"weight": 0.9, "dist_weight": 0.0},
        "distillation": {"name": name, "weight": 0.1, **options},
    }

    def mean(logits, second):
        aux, targets = {"logits_dist": second}, {"teacher_logits": teacher}
        return total(
            sections, logits=logits, aux=aux, labels=labels, targets=targets
        ).mean()

    value, grads = jax.jit(jax.value_and_grad(mean, (0, 1)))(logits, second)
    case = f"{name}_alpha0.1_tau3"
    np.testing.assert_allclose(value, DEIT[f"loss:{case}"], atol=1e-10)
    np.testing.assert_allclose(grads[0], DEIT[f"grad_out:{case}"], atol=1e-10)
    np.testing.assert_allclose(grads[1], DEIT[f"grad_kd:{case}"], atol=1e-10)


def test_distillation_without_a_second_head_is_hinton_s():
    targets = {"teacher_logits": LOGITS[::-1]}
    got = total({"distillation": {}}, targets=targets)
    want = losses.soft_distillation(logits=LOGITS, teacher_logits=LOGITS[::-1], tau=3)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("box", ["nobox", "box1032"])
@pytest.mark.parametrize("correct", [False, True])
def test_token_labels(correct, box):
    """TokenLabelCrossEntropy with MixToken, alone and split over two terms."""
    names = ("cls_logits", "aux_logits", "target3")
    logits, dense, target = floats(TOKENS, *names)
    targets = {"class_labels": target[..., 1], "token_labels": target[..., 2:].mT}
    lam = jnp.asarray({"nobox": 1.0, "box1032": 5 / 9}[box])
    options = {"dense_weight": 0.5, "correct": correct}

    def mean(logits, dense):
        aux = {"logits_aux": dense, "mix_lam": lam}
        given = dict(logits=logits, aux=aux, labels=target[..., 0], targets=targets)
        return total({"token_labels": options}, **given).mean()

    value, grads = jax.jit(jax.value_and_grad(mean, (0, 1)))(logits, dense)
    case = f"{box}_gt{int(correct)}_dense0.5_t3"
    np.testing.assert_allclose(value, TOKENS[f"loss:{case}"], atol=1e-10)
    np.testing.assert_allclose(grads[0], TOKENS[f"grad_cls:{case}"], atol=1e-10)
    np.testing.assert_allclose(grads[1], TOKENS[f"grad_aux:{case}"], atol=1e-10)

    split = {
        "classification": CLASSIFICATION | {"dense_weight": 0.0},
        "token_labels": {"class_weight": 0.0, "dense_weight": 0.5, "name": "kl"},
    }
    aux = {"logits_aux": dense, "mix_lam": lam}
    two = total(
        split, logits=logits, aux=aux, labels=targets["class_labels"], targets=targets
    )
    if not correct:
        labels = targets["token_labels"]
        entropy = -(labels * jnp.log(labels)).sum(-1).mean()
        np.testing.assert_allclose(two.mean() + entropy / 2, value, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mse", [0, 1])
@pytest.mark.parametrize("dynamic", [0, 1])
def test_dynamicvit(dynamic, mse):
    names = ("pred", "token_pred", "decision_1", "decision_2", "decision_3")
    inputs = tuple(floats(DYNAMIC, *names))
    names = ("teacher_cls", "teacher_tokens", "soft_targets")
    teacher, teacher_tokens, labels = floats(DYNAMIC, *names)
    sections = {
        "classification": CLASSIFICATION | {"dist_weight": 0.0},
        "keep_ratio": {
            "ratios": (0.7, 0.49, 0.343),
            "per_batch": bool(dynamic),
            "weight": 2.0,
        },
        "distillation": {"tau": 1.0, "weight": 0.5},
        "token_distillation": {"name": "mse" if mse else "kl", "weight": 0.5},
    }
    targets = {"teacher_logits": teacher, "teacher_tokens": teacher_tokens}

    def mean(pred, tokens, *keep):
        aux = {"patch_tokens": tokens, "keep": jnp.stack(keep)}
        return total(
            sections, logits=pred, aux=aux, labels=labels, targets=targets
        ).mean()

    value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*inputs)
    case = f"mse{mse}_dynamic{dynamic}"
    np.testing.assert_allclose(value, DYNAMIC[f"loss:{case}"], atol=1e-10)
    for grad, name in zip(grads, ("pred", "token", "decision_1"), strict=True):
        np.testing.assert_allclose(grad, DYNAMIC[f"grad_{name}:{case}"], atol=1e-10)


def test_terms_are_pure():
    """jit equals eager, gradients are finite for huge logits and no kept token."""
    sections = {
        "classification": {
            "name": "smoothed_focal",
            "smoothing": 0.1,
            "dist_weight": 0,
            "dense_weight": 0,
        },
        "keep_ratio": {"ratios": (0.5,)},
        "distillation": {"name": "hard"},
        "token_distillation": {},
        "token_labels": {"name": "kl"},
    }
    z = 1e4 * jnp.asarray([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]])
    tokens = jnp.stack([z, -z], axis=1)
    aux = {"logits_dist": -z, "logits_aux": tokens, "patch_tokens": tokens}
    aux |= {"keep": jnp.zeros((1, 2, 2))}
    labels = jnp.eye(3)[:2]
    targets = {"teacher_logits": z, "teacher_tokens": -tokens, "class_labels": labels}
    targets |= {"token_labels": jnp.stack([labels, labels], axis=1)}

    def mean(logits, aux):
        given = dict(logits=logits, aux=aux, labels=labels, targets=targets)
        return total(sections, **given).mean()

    eager = jax.value_and_grad(mean, (0, 1))(z, aux)
    jitted = jax.jit(jax.value_and_grad(mean, (0, 1)))(z, aux)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        assert bool(jnp.isfinite(a).all())
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"clasification": {}}, r'no such term. Did you mean "classification"'),
        ({"classification": {}}, r"classification.name: missing"),
        (
            {"classification": {"name": "focal_lost"}},
            r'name="focal_lost": unknown. Did you mean "focal_pt"',
        ),
        (
            {"classification": {"name": "focal", "gama": 2.0}},
            r'gama: there is no such key. Did you mean "gamma"',
        ),
        (
            {"classification": {"name": "softmax", "alpha": 0.25}},
            r'alpha=0.25 does nothing for name="softmax": .* use focal, focal_pt',
        ),
        (
            {"classification": {"name": "focal", "smoothing": 0.1}},
            r'smoothing=0.1 does nothing for name="focal": .* sigmoid, smoothed_focal',
        ),
        (
            {"classification": {"name": "focal", "sum_classes": True}},
            r"sum_classes=True does nothing .* or use sigmoid",
        ),
        (
            {"classification": {"name": "softmax", "smoothing": 1.0}},
            r"smoothing=1.0: expected 0 <= smoothing < 1",
        ),
        (
            {"classification": {"name": "smoothed_focal", "focal_weight": 2.0}},
            r"focal_weight=2.0: expected 0 <= focal_weight <= 1",
        ),
        (
            {"classification": {"name": "focal", "gamma": -1.0}},
            r"gamma=-1.0: expected gamma >= 0",
        ),
        (
            {"classification": {"name": "softmax", "dist_weight": 1.5}},
            r"dist_weight=1.5: expected 0 <= dist_weight <= 1",
        ),
        (
            {"classification": {"name": "softmax", "weight": -1.0}},
            r"weight=-1.0: expected weight >= 0",
        ),
        (
            {"classification": CLASSIFICATION, "distillation": {}},
            r"set config.loss.classification.dist_weight=0",
        ),
        (
            {"classification": CLASSIFICATION, "token_labels": {}},
            r"set config.loss.classification.dense_weight=0",
        ),
        ({"distillation": {"name": "sof"}}, r'Did you mean "soft"'),
        ({"distillation": {"name": "hard", "tau": 3.0}}, r"tau=3.0 does nothing"),
        ({"distillation": {"tau": 0}}, r"tau=0: expected above 0"),
        ({"distillation": {"scaling": "diet"}}, r'Did you mean "deit"'),
        ({"token_distillation": {"name": "mae"}}, r'name="mae": unknown'),
        ({"token_labels": {"name": "k1"}}, r'Did you mean "kl"'),
        ({"token_labels": {"dense_weight": -1}}, r"dense_weight=-1: expected"),
        (
            {"token_labels": {"class_weight": 0, "correct": True}},
            r"correct=True does nothing with class_weight=0",
        ),
        ({"keep_ratio": {}}, r"keep_ratio.ratios: missing"),
    ],
)
def test_bad_sections(sections, message):
    with pytest.raises(UserError, match=message) as error:
        Objective(sections)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("config.loss.")


@pytest.mark.parametrize(
    ("sections", "aux", "targets", "message"),
    [
        ({"distillation": {}}, {}, None, r'targets\["teacher_logits"\].* gives none'),
        (
            {"distillation": {}},
            {},
            {"teacher_logits": jnp.zeros((2, 4))},
            r"teacher's logits are \(2, 4\), the student's \(2, 5\)",
        ),
        ({"token_labels": {}}, {"x": LOGITS}, {}, r'aux\["logits_aux"\].* gives x'),
        (
            {"token_labels": {}},
            {"logits_aux": jnp.zeros((2, 4, 5))},
            {"token_labels": jnp.zeros((2, 9, 5))},
            r"labels are \(2, 9, 5\), the dense head's logits \(2, 4, 5\)",
        ),
        ({"keep_ratio": {"ratios": (0.5,)}}, {}, None, r'aux\["keep"\]'),
        (
            {"token_distillation": {}},
            {"patch_tokens": jnp.zeros((2, 4, 5)), "keep": jnp.ones((1, 2, 4))},
            {"teacher_tokens": jnp.zeros((2, 4, 6))},
            r"use a teacher of the same width",
        ),
    ],
)
def test_what_the_model_and_the_step_must_give(sections, aux, targets, message):
    with pytest.raises(UserError, match=message):
        total(sections, aux=aux, targets=targets)

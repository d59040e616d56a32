"""Every key of `config.augment` acts in the compiled step as its function says."""

import jax
import numpy as np
import pytest
import reference

from configs import common


pytestmark = pytest.mark.usefixtures("home")
DEFAULTS = dict(common.get_config().augment)
CASES = {
    "deit": dict(
        crop="random_resized",
        crop_scale=(0.3, 0.6),
        crop_ratio=(0.4, 0.6),
        flip=True,
        interpolation="bilinear",
        color_jitter=0.4,
        hue=0.3,
        jitter_prob=0.5,
        erasing=0.7,
        erasing_mode="rand",
        erasing_count=3,
        mixup=0.3,
        cutmix=0.6,
        mix_prob=0.7,
        switch_prob=0.25,
        mix_mode="elem",
    ),
    "timm": dict(
        degrees=30.0,
        translate=0.2,
        scale=(0.6, 0.8),
        shear=20.0,
        pad=3,
        erasing=0.5,
        erasing_mode="const",
        mixup=2.0,
        mix_first=True,
    ),
}
SLOW = {
    "policy": dict(auto_augment="rand-m9-mstd0.5-inc1", interpolation="bilinear"),
    "augmix": dict(auto_augment="augmix-m9-w2", interpolation="random", flip=True),
    "center": dict(
        crop="random_or_center",
        crop_scale=(0.2, 0.4),
        crop_ratio=(1.2, 1.6),
        interpolation="nearest",
    ),
    "simple": dict(crop="simple", hue=0.2, cutmix=1.0, mix_mode="pair", erasing=0.9),
}
STEP, SEED = 3, 5
TOLERANCE = 1e-3  # a grey level on a tie may be rounded to either side


def expected(model, params, changes):
    """Loss, accuracy and gradients by the functions alone."""
    images, labels = reference.prepared(
        DEFAULTS | changes, reference.batch_of(), seed=SEED, step=STEP
    )
    (loss, logits), grads = reference.loss_and_grads(model)(params, images, labels)
    hits = np.argmax(logits, -1) == np.argmax(labels, -1)
    return float(loss), float(hits.mean()), reference.norm(grads)


def start(folder, changes):
    """An experiment, and its state before a step in the middle of the run."""
    given = {f"augment__{key}": value for key, value in changes.items()}
    x = reference.build(folder, seed=SEED, **given)
    return x, reference.lively(x).replace(step=jax.numpy.int32(STEP))


@pytest.mark.parametrize(
    "name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_the_compiled_step_augments_as_the_keys_say(name, folder):
    changes = (CASES | SLOW)[name]
    x, state = start(folder, changes)
    want = expected(x.task.model, state.params, changes)
    _, found = x.compile_train_step()(state, x.put(reference.batch_of()), [])
    got = [float(found[key]) for key in ("loss", "accuracy", "grad_norm")]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *SLOW])
def test_no_key_of_a_case_is_idle(name, folder):
    """Left out, each one moves the loss or the gradient by far more than rounding."""
    changes = (CASES | SLOW)[name]
    x, state = start(folder, changes)
    want = expected(x.task.model, state.params, changes)
    for key in changes:
        other = expected(x.task.model, state.params, changes | {key: DEFAULTS[key]})
        apart = np.abs(np.subtract(other, want) / want)[[0, 2]].max()
        assert apart > 5 * TOLERANCE, f"{key}: {apart}"


def test_every_key_has_a_case():
    """Those of multi-scale training have theirs in test_multi_scale_keys.py."""
    keys = {key for key in DEFAULTS if not key.startswith("multi_scale")}
    assert {key for case in (CASES | SLOW).values() for key in case} == keys

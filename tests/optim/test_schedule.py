"""Schedules against timm's and optax's numbers."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.optim import schedule


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/train/schedules.npz")


def cosine_case(key):
    """A golden's key, `cosine_lr0.001_warm5_prefix1`, as a schedule in epochs."""
    _, lr, warm, prefix = key.split("_")
    warmup, shifted = int(warm.removeprefix("warm")), prefix == "prefix1"
    return dict(
        name="cosine_prefix" if shifted else "cosine_timm",
        lr=float(lr.removeprefix("lr")),
        total_steps=300 + warmup * shifted,  # timm counts 300 after the prefix
        warmup_steps=warmup,
        warmup_lr=1e-6,
        min_lr=1e-5,
    )


SWIN = dict(lr=1e-3, total_steps=300, warmup_steps=60, warmup_lr=5e-7, min_lr=5e-6)
CASES = {k: cosine_case(k) for k in GOLDEN.files if k.startswith("cosine")} | {
    "swin_updates_prefix": dict(name="cosine_prefix", **SWIN),
    "swin_updates_noprefix": dict(name="cosine_timm", **SWIN),
}


def values(steps, **options):
    return np.asarray(jax.jit(schedule.make(**options))(jnp.arange(steps)))


def assert_cases(tolerance):
    assert len(CASES) == 18
    for key, options in CASES.items():
        want = GOLDEN[key]
        got = values(len(want), **options)
        np.testing.assert_allclose(got, want, rtol=tolerance, err_msg=key)


@pytest.mark.usefixtures("x64")
def test_timm_float64():
    assert_cases(1e-12)


def test_timm_float32():
    assert_cases(2e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("loop", "lag"), [("deit_main", 1), ("timm_train", 0)])
def test_epoch_wise_loops_float64(loop, lag):
    per_epoch = 7
    got = values(
        300 * per_epoch,
        name="cosine_timm",
        lr=5e-4,
        total_steps=300 * per_epoch,
        warmup_steps=5 * per_epoch,
        warmup_lr=1e-6,
        min_lr=1e-5,
        per_epoch=True,
        steps_per_epoch=per_epoch,
        lag_epochs=lag,
    )
    want = np.repeat(GOLDEN[f"used_by_{loop}_lr5e-4_warm5"], per_epoch)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_cosine_optax_is_optaxs():
    got = values(
        120,
        name="cosine_optax",
        lr=2e-3,
        total_steps=100,
        warmup_steps=13,
        warmup_lr=1e-5,
        min_lr=1e-4,
    )
    with jax.numpy_dtype_promotion("standard"):
        want = optax.warmup_cosine_decay_schedule(1e-5, 2e-3, 13, 100, 1e-4)
        want = [float(want(t)) for t in range(120)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_linear_constant_and_cooldown():
    options = dict(lr=1.0, total_steps=20, warmup_steps=5, warmup_lr=0.5)
    linear = values(25, name="linear", min_lr=0.1, cooldown_steps=5, **options)
    want = np.concatenate(
        [np.linspace(0.5, 1, 5, False), np.linspace(1, 0.1, 11), np.full(9, 0.1)]
    )
    np.testing.assert_allclose(linear, want, rtol=1e-6)
    constant = values(25, name="constant", **options)
    np.testing.assert_allclose(constant, [*want[:5], *[1.0] * 20], rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine_timm", "cosine_prefix", "linear"])
def test_float32_keeps_its_precision_after_a_million_steps(name):
    options = dict(lr=1e-3, total_steps=1_200_003, warmup_steps=10_000, min_lr=1e-8)
    fn = schedule.make(name, **options)
    steps = np.array([999, 10_001, 1_000_000, 1_000_001, 1_199_990, 1_200_002])
    got = np.asarray(jax.jit(fn)(jnp.asarray(steps, jnp.int32)), np.float64)
    with jax.enable_x64(True):
        want = np.asarray(fn(jnp.asarray(steps)))
    np.testing.assert_allclose(got, want, rtol=2e-6)
    assert (np.diff(got[1:]) < 0).all()  # steps that differ by one differ


def test_scalar_dtype_and_python_steps():
    fn = schedule.make("cosine_timm", lr=1e-3, total_steps=10)
    assert fn(3).shape == ()
    assert fn(jnp.int32(3)).dtype == jnp.float32
    assert float(fn(3)) == float(jax.jit(fn)(3))
    np.testing.assert_allclose(fn(0), 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="cosine_tim"), 'Did you mean "cosine_timm"'),
        (dict(warmup_steps=10), "warm-up must be shorter"),
        (dict(cooldown_steps=9, warmup_steps=1), "1 steps before cool-down"),
        (dict(warmup_steps=-1), "-1 of warm-up"),
        (dict(per_epoch=True), "steps_per_epoch"),
        (dict(lag_epochs=1), "needs per_epoch=True"),
    ],
)
def test_mistakes(options, message):
    defaults = dict(name="cosine_timm", lr=1.0, total_steps=10)
    with pytest.raises(UserError, match=message):
        schedule.make(**(defaults | options))


def test_epochs_that_are_no_whole_number_of_steps():
    """1438 examples in batches of 64: epoch e begins with step ceil(e 1438 / 64)."""
    fn = schedule.make(
        "linear", lr=1.0, total_steps=225, steps_per_epoch=1438 / 64, per_epoch=True
    )
    got = [float(fn(step)) for step in range(226)]
    begins = [-(-epoch * 1438 // 64) for epoch in range(11)]
    assert begins[:4] == [0, 23, 45, 68]
    epochs = [sum(b <= step for b in begins) - 1 for step in range(226)]
    want = [1 - epoch * 1438 / 64 / 225 for epoch in epochs]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)

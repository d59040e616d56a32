"""The average against timm's ModelEmaV2 and ModelEmaV3."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from vit_jax_tricks.ema import ema_decay, ema_init, ema_update
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.storage.checkpoint import read_variables


GOLDEN = np.load(pathlib.Path(__file__).parent / "golden/train/ema_droppath.npz")
CASES = {
    "v2_decay0.9": dict(decay=0.9),
    "v2_decay0.99996": dict(decay=0.99996),
    "v3_decay0.9": dict(decay=0.9, start=0),
    "v3_decay0.9_warmup": dict(decay=0.9, warmup=True),
    "v3_decay0.9_after10": dict(decay=0.9, start=10),
}


def assert_case(case, dtype, tolerance):
    def model(t):
        w, stat = GOLDEN["model_w"][t], GOLDEN["model_stat"][t]
        return {"params": jnp.asarray(w, dtype), "stats": jnp.asarray(stat, dtype)}

    update = jax.jit(lambda e, p, t: ema_update(e, p, step=t, **CASES[case]))
    ema = model(0)
    for t in range(1, 41):
        ema = update(ema, model(t), t)
        for name, key in (("params", "w"), ("stats", "stat")):
            want = GOLDEN[f"ema_{key}:{case}"][t - 1]
            np.testing.assert_allclose(ema[name], want, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_timm_float64(case):
    assert_case(case, jnp.float64, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_timm_float32(case):
    assert_case(case, jnp.float32, 2e-5)


@pytest.mark.usefixtures("x64")
def test_warmup_decay():
    want = GOLDEN["v3_warmup_decay_of_step_0_to_400"]
    got = [ema_decay(t, decay=0.9999, warmup=True) for t in range(401)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert float(ema_decay(10**6, decay=0.999, warmup=True)) == 0.999


def test_float32_moves_by_the_exact_rate():
    """1 - 0.99996 in float32 would be 4.0054e-05."""
    moved = ema_update(jnp.zeros(()), jnp.ones(()), decay=0.99996)
    np.testing.assert_allclose(moved, 4e-5, rtol=1e-6)


def test_whole_numbers_are_copied_and_dtype_is_the_averages():
    ema = {"n": jnp.int32(3), "w": jnp.zeros(2, jnp.float32)}
    new = {"n": jnp.int32(7), "w": jnp.ones(2, jnp.bfloat16)}
    out = ema_update(ema, new, decay=0.5)
    assert int(out["n"]) == 7
    assert out["w"].dtype == jnp.float32
    np.testing.assert_array_equal(out["w"], [0.5, 0.5])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("decay", [0.999, 0.9999])
def test_averages_of_any_precision_move(dtype, decay):
    """After n updates towards a constant p: p + (p0 - p) decay^n."""
    first, last = ({"w": jnp.full(3, x, dtype)} for x in (1.0, 1.5))
    ema = ema_init(first)
    assert ema["w"].dtype == jnp.float32

    def step(ema, t):
        return ema_update(ema, last, decay=decay, step=t), None

    ema, _ = jax.lax.scan(step, ema, jnp.arange(5000))
    np.testing.assert_allclose(ema["w"], 1.5 - 0.5 * decay**5000, rtol=1e-4)
    widened = ema_update(first, last, decay=decay)["w"]
    assert widened.dtype == jnp.float32
    np.testing.assert_allclose(widened, 1 + 0.5 * (1 - decay), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_first_average_is_a_copy_with_the_same_types():
    tree = {"a": jnp.ones(2, jnp.float64), "n": jnp.arange(3), "m": jnp.ones(2) > 0}
    ema = ema_init(tree)
    assert {n: x.dtype for n, x in ema.items()} == {n: x.dtype for n, x in tree.items()}
    assert all(x is not tree[n] for n, x in ema.items())
    moved = ema_update(ema, {**tree, "n": tree["n"] + 1}, decay=0.5)
    assert moved["a"].dtype == jnp.float64
    np.testing.assert_array_equal(moved["n"], [1, 2, 3])


def test_other_trees_are_refused_in_one_line():
    w = {"dense": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}
    wrong = {
        r"params\['dense'\]\['w'\] is float32\[3, 2\]; expected \[2, 3\], as ema\.": {
            "dense": {**w["dense"], "w": jnp.ones((3, 2))}
        },
        r"params lacks \['dense'\]\['b'\], which ema has": {
            "dense": {"w": jnp.ones((2, 3))}
        },
        r"ema lacks \['more'\], which params has": {**w, "more": jnp.ones(1)},
        r"params\['dense'\]\['b'\] is 0.5, not an array": {
            "dense": {**w["dense"], "b": 0.5}
        },
    }
    for message, params in wrong.items():
        with pytest.raises(UserError, match=message):
            ema_update(w, params, decay=0.9)
        if "0.5" not in message:
            with pytest.raises(UserError, match=message):
                jax.eval_shape(lambda p: ema_update(w, p, decay=0.9), params)
    for call in (
        lambda step: ema_decay(step, decay=0.9),
        lambda step: ema_update(w, w, decay=0.9, step=step),
    ):
        for step in (jnp.arange(2), jnp.float32(1), None):
            with pytest.raises(UserError, match="step is"):
                call(step)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_run_in_bfloat16_averages_in_float32(tmp_path):
    """It is evaluated, stopped and resumed like any other."""
    half = "--config.model.param_dtype=bfloat16", "--config.ema.decay=0.9"
    runs.train(*half, workdir=tmp_path / "run")
    runs.train(*half, "--config.steps=14", workdir=tmp_path / "run")
    newest = tmp_path / "run/checkpoints/14"
    found = read_variables(newest)
    for name, dtype in (("params", jnp.bfloat16), ("ema", jnp.float32)):
        assert {x.dtype for x in jax.tree.leaves(found[name])} == {jnp.dtype(dtype)}

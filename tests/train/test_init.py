"""`config.init`: a run that begins with weights, and resumes without them."""

import os
import shutil
import signal

import jax
import pytest
import runs
from quick import sparse

from vit_jax_tricks import config, load_pretrained
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.train import experiment


pytestmark = pytest.mark.usefixtures("home")


def build(*args: str) -> experiment.Experiment:
    pairs = [a.removeprefix("--config.").split("=", 1) for a in (*runs.TINY, *args)]
    return experiment.build(config.load("configs/digits.py", map(tuple, pairs)))


@pytest.mark.parametrize("scan", sparse([False, True], every=2))
def test_the_first_state_holds_the_weights(run, scan):
    x = build(f"--config.init={run}", f"--config.model.scan={scan}")
    state = x.compile_init()
    expected, _ = load_pretrained(x.task.model, run, verbose=False)
    assert runs.same(state.params, expected["params"])
    assert runs.same(state.ema["params"], expected["params"])
    assert int(state.step) == 0
    drawn = build(f"--config.model.scan={scan}").compile_init()
    assert runs.same(state.key, drawn.key)
    assert not runs.same(state.params, drawn.params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, x.state_shape())
    assert jax.tree.all(
        jax.tree.map(
            lambda a, s: a.sharding.is_equivalent_to(s, a.ndim), state, shardings
        )
    )


def kill_before_evaluation(patch: pytest.MonkeyPatch) -> None:
    """A signal arrives as the second batch goes to the devices."""
    original, calls = experiment.Experiment.put, []

    def put(self, batch):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    patch.setattr(experiment.Experiment, "put", put)


@pytest.mark.slow
def test_a_resumed_run_needs_them_no_more(run, tmp_path):
    source = runs.copied(run, tmp_path)
    args, other = (f"--config.init={source}",), tmp_path / "other"
    whole = tmp_path / "whole"
    runs.train(*args, workdir=whole)
    with pytest.MonkeyPatch.context() as patch:
        kill_before_evaluation(patch)
        status, _, err = runs.command(*args, workdir=other)
        assert (status, err) == (143, "")
    shutil.rmtree(source)
    runs.train(*args, workdir=other)
    assert runs.leaves(other, 12) == runs.leaves(whole, 12)
    assert runs.leaves(other, 12) != runs.leaves(run, 12)
    status, _, err = runs.command(workdir=other)
    assert status == 1
    assert "holds another run: config.init was" in err


def test_it_is_as_strict_as_load_pretrained(run, tmp_path):
    def refused(part: str, *args: str) -> None:
        with pytest.raises(UserError, match=part):
            build(*args).compile_init()

    refused("does not exist", f"--config.init={tmp_path / 'none.safetensors'}")
    refused("holds no checkpoints", f"--config.init={tmp_path}")
    refused("lacks", f"--config.init={run}", "--config.model.depth=2")
    refused("shape", f"--config.init={run}", "--config.model.mlp_ratio=2.0")

"""A run at several image sizes: stopped anywhere, it ends with the same bits."""

import json
from collections import Counter

import pytest
import runs

from vit_jax_tricks import augment
from vit_jax_tricks.train import loop
from vit_jax_tricks.train.experiment import Experiment


pytestmark = pytest.mark.usefixtures("home")
SIZES = ("--config.augment.multi_scale=(4, 6, 8)",)


def test_resumed_and_whole(tmp_path, monkeypatch):
    """With one compilation for each size, and as many images a step as ever."""
    compiled, seen = Counter(), []
    compile_step = Experiment.compile_train_step

    def counted(x, size=None):
        compiled[size] += 1
        program = compile_step(x, size)

        def step(*args):
            seen.append(size)
            return program(*args)

        step.memory_analysis = program.memory_analysis
        return step

    monkeypatch.setattr(Experiment, "compile_train_step", counted)
    out = runs.train(*SIZES, workdir=tmp_path / "whole")
    assert compiled == {4: 1, 6: 1, 8: 1}
    assert seen == [augment.training_size(s, (4, 6, 8), seed=0) for s in range(12)]
    assert "4, 6, 8" in out
    assert "(3 training steps)" in out
    lines = runs.metrics(tmp_path / "whole")
    assert [m["train/epoch"] for m in lines if "train/loss" in m] == pytest.approx(
        [step * 32 / 1437 for step in (3, 6, 9, 12)], rel=0.01
    )

    drain = loop.Loop._drain

    def stopping(self, lag, **options):
        drain(self, lag, **options)
        if lag and self.pending[-1][0] == 7:
            self.stop.requested = 143

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_drain", stopping)
        assert runs.command(*SIZES, workdir=tmp_path / "part")[0] == 143
    runs.train(*SIZES, workdir=tmp_path / "part")
    parts = [tmp_path / name for name in ("whole", "part")]
    assert runs.leaves(parts[0], 12) == runs.leaves(parts[1], 12)
    assert runs.metrics(parts[0]) == runs.metrics(parts[1])
    config = json.loads((parts[0] / "config.json").read_text())
    assert config["augment"]["multi_scale"] == [4, 6, 8]


def test_a_model_of_one_size(tmp_path):
    tables = (
        "--config.model.name=beit_base_patch16_224",
        "--config.model.patch_size=2",
    )
    result = runs.command(*tables, *SIZES, workdir=tmp_path)
    runs.refused(result, "config.augment.multi_scale: ")

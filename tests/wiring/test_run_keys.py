"""The loop: when it logs, evaluates, saves and keeps, and what its lines hold.

One run has a compiled step that also notes what it did, an evaluation whose results
are given, and one step that is skipped.
"""

import json

import jax
import numpy as np
import pytest
import reference

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import resume
from vit_jax_tricks.storage.checkpoint import read_variables
from vit_jax_tricks.train import loop
from vit_jax_tricks.train.experiment import Experiment


pytestmark = pytest.mark.usefixtures("home")
SKIPPED = 5
ACCURACIES = {4: (0.5, 0.9), 8: (0.8, 0.3), 11: (0.6, 0.7)}  # plain and averaged
KEYS = {
    "name": "a-name-of-its-own",
    "model": reference.SMALL,
    **reference.TINY,
    "steps": 11,
    "optimizer.momentum": 0.0,
    "ema.decay": 0.5,
    "schedule.name": "linear",
    "schedule.lr": 0.3,
    "schedule.warmup_epochs": 2.0,
    "schedule.warmup_lr": 0.1,
    "eval.epochs": 4 / 3,
    "log.steps": 3,
    "log.tensorboard": True,
    "checkpoint.steps": 5,
    "checkpoint.keep": 3,
}


class Watched:
    """What the steps of a run did, and which variables it evaluated.

    It is the run's clock too: a step takes half a second, an evaluation five.
    """

    def __init__(self):
        self.steps, self.rates, self.evaluated = [], [], []

    def monotonic(self):
        return 0.5 * len(self.steps) + 5.0 * len(self.evaluated)

    def train_step(self, compiled):
        """The compiled step; before step SKIPPED its parameters are not numbers."""

        def step(state, batch, frozen):
            at = jax.tree.map(lambda leaf: leaf.sharding, state.params)
            params = jax.tree.map(np.array, state.params)
            poisoned = len(self.steps) + 1 == SKIPPED
            if poisoned:
                bad = jax.tree.map(lambda leaf: leaf * np.float32("nan"), params)
                state = state.replace(params=jax.device_put(bad, at))
            state, metrics = compiled(state, batch, frozen)
            if poisoned:
                state = state.replace(params=jax.device_put(params, at))
            moved = jax.tree.map(lambda a, b: np.array(a) - b, state.params, params)
            self.steps.append({k: float(v) for k, v in metrics.items()})
            self.rates.append(reference.norm(moved) / self.steps[-1]["grad_norm"])
            self.last = state.params
            return state, metrics

        return step

    def eval_step(self, variables, batch):
        """Sums by the given accuracies, the plain variables first."""
        self.evaluated.append(jax.tree.map(np.array, variables["params"]))
        number = len(self.evaluated) - 1
        accuracy = list(ACCURACIES.values())[number // 2][number % 2]
        count = float(np.sum(batch["mask"]))
        names = ("correct", "correct5", "loss")
        return dict.fromkeys(names, count * accuracy) | {"count": count}


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The workdir of the run, what was seen of it, and its last result."""
    workdir, watched = tmp_path_factory.mktemp("run"), Watched()
    compile_step = Experiment.compile_train_step

    def compiled(experiment):
        return watched.train_step(compile_step(experiment))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "compile_train_step", compiled)
        patch.setattr(Experiment, "compile_eval_step", lambda _: watched.eval_step)
        patch.setattr(loop.banner, "show", lambda *_: ({None: 1.0}, {}))
        patch.setattr(loop, "time", watched)
        result = loop.run(config(folder), workdir)
    return workdir, watched, result


def config(folder, **changes):
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return reference.config_of(KEYS | {"data.name": f"folder:{folder}"} | given)


def lines(workdir, key):
    """The lines of metrics.jsonl that have the key, by step."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in found if key in line}


def test_lines_and_evaluations_come_when_the_keys_say(finished):
    workdir, watched, result = finished
    assert list(lines(workdir, "train/loss")) == [3, 6, 9, 11]
    found = lines(workdir, "test/accuracy")
    assert list(found) == list(ACCURACIES)
    for step, (plain, averaged) in ACCURACIES.items():
        assert found[step]["test/accuracy"] == pytest.approx(plain)
        assert found[step]["test/accuracy_ema"] == pytest.approx(averaged)
    assert len(watched.steps) == 11
    assert result["test/accuracy_ema"] == pytest.approx(0.7)


def test_a_line_has_the_means_since_the_last(finished):
    """Of the steps that were taken: the fifth was skipped, and only counts as such."""
    workdir, watched, _ = finished
    before = 0
    for step, line in lines(workdir, "train/loss").items():
        window = [
            s
            for i, s in enumerate(watched.steps, 1)
            if before < i <= step and i != SKIPPED
        ]
        for name in ("loss", "accuracy", "grad_norm"):
            want = np.mean([s[name] for s in window])
            assert line[f"train/{name}"] == pytest.approx(want, rel=1e-6), step
        assert line["train/skipped"] == (step >= SKIPPED)
        assert line["train/epoch"] == pytest.approx(step * 16 / 48)
        before = step


def test_the_logged_rate_is_the_one_that_was_applied(finished):
    """How far SGD moved the parameters, as a multiple of the gradient."""
    workdir, watched, _ = finished
    warm = np.array([0.1 + 0.2 * t / 6 for t in range(6)])
    fall = np.array([0.3 * (1 - t / 5) for t in range(5)])
    want = [*warm, *fall]
    want = [*want[:4], np.nan, *want[4:10]]  # the schedule waits for a skipped step
    np.testing.assert_allclose(watched.rates, want, rtol=1e-3)
    for step, line in lines(workdir, "train/lr").items():
        assert line["train/lr"] == pytest.approx(want[step - 1], rel=1e-5), step


def test_time_is_that_of_the_steps_and_evaluations(finished):
    """Both parameters are evaluated twice before the last line, then once more."""
    workdir, _, _ = finished
    for step, line in lines(workdir, "time/images_per_second").items():
        assert line["time/images_per_second"] == pytest.approx(16 / 0.5)
        done = 2 * sum(at < step for at in ACCURACIES)
        assert line["time/seconds"] == pytest.approx(0.5 * step + 5.0 * done)
    for line in lines(workdir, "time/eval_seconds").values():
        assert line["time/eval_seconds"] == pytest.approx(10.0)
    (stored, _) = json.loads(
        (workdir / "checkpoints" / "11" / "later.json").read_text()
    )
    assert stored["meta"]["seconds"] == pytest.approx(0.5 * 11 + 5.0 * 6)


def test_the_newest_checkpoints_and_the_best_are_kept(finished):
    """Saved at 4, 5, 8, 10 and 11; the best is 0.9, of the averages at step 4."""
    workdir, _, _ = finished
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {4, 8, 10, 11}
    summary = (workdir / "report" / "summary.md").read_text()
    assert "| best test accuracy | 0.9000 at step 4 |" in summary


def test_averages_are_evaluated_beside_the_parameters(finished):
    workdir, watched, _ = finished
    stored = read_variables(workdir / "checkpoints" / "11")
    plain, averaged = watched.evaluated[-2:]
    for found, want in ((plain, stored["params"]), (averaged, stored["ema"]["params"])):
        jax.tree.map(np.testing.assert_array_equal, found, want)
    jax.tree.map(np.testing.assert_array_equal, plain, jax.device_get(watched.last))
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), plain, averaged)
    assert max(jax.tree.leaves(apart)) > 1e-3


def test_event_files_are_written_where_they_are_wanted(finished):
    workdir, _, _ = finished
    (events,) = workdir.glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in (b"train/loss", b"train/lr", b"test/accuracy_ema"):
        assert name in content


OTHERS = {
    "seed": 1,
    "init": "weights.safetensors",
    "batch_size": 24,
    "accumulate": 2,
    "model.mlp_ratio": 2.0,
    "data.image_size": 24,
    "data.examples": 40,
    "optimizer.name": "muon",
    "ema.decay": 0.9,
    "ema.decay ": None,
    "quant.weights": "int8_narrow",
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_value_is_another_run(key, finished, folder):
    workdir, _, _ = finished
    with pytest.raises(UserError, match=rf"holds another run: .*config\.{key.strip()}"):
        loop.run(config(folder, **{key.strip(): OTHERS[key]}), workdir)


def test_resume_never_and_required(finished, folder, tmp_path):
    workdir, _, _ = finished
    with pytest.raises(UserError, match=r"resume=never, but .* holds a run"):
        loop.run(config(folder, resume="never"), workdir)
    with pytest.raises(UserError, match="resume=required, but"):
        loop.run(config(folder, resume="required"), tmp_path / "none")
    again = loop.run(config(folder, resume="required"), workdir)
    assert again["test/accuracy_ema"] == pytest.approx(0.7)  # nothing was left to do


IDENTITY = {
    "data.name": "digit_scenes/32",
    "data.train_split": "train[:50%]",
    "data.split_seed": 3,
    "data.test_fraction": 0.3,
    "teacher.sources": ("runs/another",),
    "teacher.pack": "packs/another",
    "teacher.smoothing": 0.2,
    "quant.activations": "uint8",
    "model.name": "vit_base_patch16_224",
}


@pytest.mark.parametrize("key", IDENTITY)
def test_a_recorded_run_is_told_from_another(key, tmp_path):
    """By the configs alone, as its data and teachers may be gone."""
    resume.record(tmp_path, reference.config_of({}), ["a", "b"], {}, [])
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    other = reference.config_of({key: IDENTITY[key]})
    with pytest.raises(UserError, match=rf"holds another run: config\.{key} was"):
        resume.check_run(tmp_path, other, ["a", "b"], [], {}, "auto")


def test_other_names_of_classes_are_another_run(tmp_path):
    given = reference.config_of({})
    resume.record(tmp_path, given, ["a", "b"], {}, [])
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(UserError, match="was trained on other classes"):
        resume.check_run(tmp_path, given, ["b", "a"], [], {}, "auto")

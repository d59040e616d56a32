"""The loop: stopped or damaged anywhere, it ends with the same bits."""

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from vit_jax_tricks import augment, config
from vit_jax_tricks.random import step_key
from vit_jax_tricks.runs import evaluate, model_inputs
from vit_jax_tricks.storage.checkpoint import Checkpointer
from vit_jax_tricks.train import experiment, loop, report
from vit_jax_tricks.train.experiment import Experiment


pytestmark = pytest.mark.usefixtures("home")

# Mixup and EMA are on in configs/digits.py; saves at 4, 8, 12, evaluation at 5, 10, 12.
FULL = (
    "--config.model.drop_path_rate=0.2",
    "--config.model.drop_path_decay=constant",
    "--config.accumulate=2",
    "--config.eval.batch_size=64",  # 6 batches
)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    runs.train(*FULL, workdir=workdir)
    return workdir


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def assert_same(workdir: Path, whole: Path) -> None:
    assert runs.leaves(workdir, 12) == runs.leaves(whole, 12)
    assert runs.metrics(workdir) == runs.metrics(whole)


def kill_at(patch: pytest.MonkeyPatch, owner, name: str, call: int, signum) -> None:
    """Sends this process a signal as call number `call` of `owner.name` begins."""
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    patch.setattr(owner, name, wrapped)


# Where the signal arrives, and the step that is saved then; each goes on from the last.
# `put` takes a batch of training to the devices; an evaluation normalises six.
MOMENTS = (
    ("setup", loop, "build", 1, None),
    ("initialisation", Experiment, "compile_init", 1, None),
    ("compilation", Experiment, "compile_train_step", 1, None),
    ("the first step", Experiment, "put", 1, 1),
    ("between steps", Experiment, "put", 2, 3),
    ("a save", Checkpointer, "_seal", 1, 4),
    ("an evaluation", model_inputs, "_normalize", 2, 5),
    ("restoring", Checkpointer, "_restore", 1, 5),
    ("compilation after it", Experiment, "compile_eval_step", 1, 5),
    ("the last evaluation", model_inputs, "_normalize", 15, 12),
)


@pytest.mark.slow
def test_stopped_anywhere_it_ends_alike(whole, tmp_path):
    for number, (where, owner, name, call, step) in enumerate(MOMENTS):
        signum = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[number % 3]
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, owner, name, call, signum)
            status, out, err = runs.command(*FULL, workdir=tmp_path)
        assert (status, err) == (128 + signum, ""), where
        saved = [p.name for p in tmp_path.glob("checkpoints/*")]
        assert str(step) in saved if step else not saved, where
        said = f"stopped and saved at step {step};"
        assert (said in out) == (name in ("put", "_seal", "_normalize")), where
    runs.train(*FULL, workdir=tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("requested", range(1, 12))
@pytest.mark.slow
@pytest.mark.usefixtures("sharing")
def test_stopped_at_any_step_it_ends_alike(requested, whole, tmp_path, monkeypatch):
    original = loop.Loop._drain

    def drain(self, lag, **options):
        original(self, lag, **options)
        if lag and self.pending[-1][0] == requested:
            self.stop.requested = 143

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_drain", drain)
        assert runs.command(*FULL, workdir=tmp_path)[0] == 143
    assert (tmp_path / "checkpoints" / str(requested)).is_dir()
    runs.train(*FULL, workdir=tmp_path)
    assert_same(tmp_path, whole)


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    runs.command("--config.seed=x", workdir=tmp_path)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_evaluation_saves_and_lines_come_where_they_should(whole):
    lines = runs.metrics(whole)
    evaluated = [line["step"] for line in lines if "test/accuracy" in line]
    assert evaluated == [5, 10, 12]
    assert [m["step"] for m in lines if "train/loss" in m] == [3, 6, 9, 12]
    assert all("test/accuracy_ema" in m for m in lines if "test/accuracy" in m)
    assert {"10", "12"} <= {p.name for p in (whole / "checkpoints").iterdir()}
    names = {path.name for path in (whole / "report").iterdir()}
    assert names == {"accuracy.png", "learning_rate.png", "loss.png", "summary.md"}


def test_a_finished_run_stays_as_it_is(run):
    before = runs.snapshot(run)
    assert "is finished" in runs.train(*FULL, workdir=run)
    assert runs.snapshot(run) == before
    (run / "report" / "summary.md").unlink()
    assert "report: " in runs.train(*FULL, workdir=run)
    assert report.exists(run)


@pytest.mark.usefixtures("sharing")
def test_a_run_whose_config_names_no_task_goes_on(run, whole):
    """Runs made before there were tasks."""
    file = run / "config.json"
    values = json.loads(file.read_text())
    assert values.pop("task") == "supervised"
    file.write_text(json.dumps(values))
    assert evaluate(run)["accuracy_ema"] == pytest.approx(
        runs.metrics(whole)[-1]["test/accuracy_ema"]
    )
    shutil.rmtree(run / "checkpoints" / "12")
    assert "at step 10" in runs.train(*FULL, workdir=run)
    assert_same(run, whole)


@pytest.mark.usefixtures("sharing")
def test_a_damaged_newest_checkpoint_costs_only_time(run, whole):
    damage(run, "state/_METADATA")
    out = runs.train(*FULL, workdir=run)
    assert out.count("checkpoint 12 is damaged (checksum of state/_METADATA") == 1
    assert "at step 10" in out
    assert_same(run, whole)


def damage(run: Path, file: str) -> None:
    path = run / "checkpoints" / "12" / file
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1] = [data[middle] ^ 1] if data else b"!"
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.usefixtures("sharing")
def test_a_flipped_byte_in_any_file_costs_only_time(whole, tmp_path):
    newest = whole / "checkpoints" / "12"
    files = [str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()]
    assert len(files) > 10  # test_checkpoint.py damages each; some go on to the end
    for number, file in enumerate(sorted(files)[::5]):
        run = Path(shutil.copytree(whole, tmp_path / str(number)))
        damage(run, file)
        out = runs.train(*FULL, workdir=run)
        assert out.count("is damaged") == 1, file
        assert_same(run, whole)


@pytest.mark.usefixtures("sharing")
def test_a_required_run_goes_on(run, whole):
    shutil.rmtree(run / "checkpoints" / "12")
    out = runs.train(*FULL, "--config.resume=required", workdir=run)
    assert "at step 10" in out
    assert_same(run, whole)


@pytest.mark.usefixtures("sharing")
def test_what_changed_is_said_once(run):
    out = runs.train(*FULL, "--config.log.steps=5", workdir=run)
    assert "config.log.steps was 3 when this run started, now 5" in out
    assert "config." not in runs.train(*FULL, "--config.log.steps=5", workdir=run)


def poisoned(*steps: int):
    """`augment.from_config` whose images are NaN at some steps."""
    original, root = augment.from_config, jax.random.key(0)

    def from_config(**options):
        stack = original(**options)

        def poison(key, images, index):
            bad = jnp.array(False)
            for step in steps:
                other = step_key(root, "augment", jnp.asarray(step, jnp.int32))
                bad |= jnp.all(jax.random.key_data(key) == jax.random.key_data(other))
            images, geometry = stack.augment(key, images, index)
            return jnp.where(bad, jnp.nan, images), geometry

        return stack._replace(augment=poison)

    return from_config


@pytest.mark.slow
def test_steps_that_are_not_finite(tmp_path, monkeypatch):
    """Single ones and pairs are skipped, also over a stop; three end the run."""
    monkeypatch.setattr(augment, "from_config", poisoned(1, 4, 5, 9, 10, 11))
    with monkeypatch.context() as patch:  # between the steps of a pair
        kill_at(patch, Experiment, "put", 5, signal.SIGTERM)
        status, out, _ = runs.command(workdir=tmp_path / "stopped")
    assert status == 143
    assert "stopped and saved at step 5;" in out
    for name in ("whole", "stopped"):
        status, out, err = runs.command(workdir=tmp_path / name)
        assert status == 1
        assert err.count("\n") == 1
        assert "3 steps in a row were not finite, the last of them step 12;" in err
        for step in (6, 10, 11) if name == "stopped" else (2, 5, 6, 10, 11):
            assert f"step {step}: loss or gradient not finite; the step is" in out
    assert runs.metrics(tmp_path / "stopped") == runs.metrics(tmp_path / "whole")
    assert runs.leaves(tmp_path / "stopped", 10) == runs.leaves(tmp_path / "whole", 10)
    lines = [m for m in runs.metrics(tmp_path / "whole") if "train/loss" in m]
    assert [line["train/skipped"] for line in lines] == [1, 3, 3]
    assert all(np.isfinite(line["train/loss"]) for line in lines)


def load(*overrides: str) -> config.Section:
    flags = [*runs.TINY, *overrides]
    pairs = [flag.removeprefix("--config.").split("=", 1) for flag in flags]
    return config.load("configs/digits.py", [(key, value) for key, value in pairs])


@pytest.mark.slow
def test_every_example_counts_once_on_any_batch_and_mesh(whole):
    results = []
    for devices, batch in ((1, 359), (8, 359), (8, 100), (1, 100)):
        x = experiment.build(
            load(f"eval.batch_size={batch}"), devices=jax.devices()[:devices]
        )
        state = x.compile_init()
        results.append(x.evaluate(x.compile_eval_step(), {"": state.variables}))
    counts = [{k: v * 359 for k, v in r.items() if "loss" not in k} for r in results]
    assert counts[0]["accuracy"] == round(counts[0]["accuracy"])
    assert all(c == counts[0] for c in counts)
    losses = [r["loss"] for r in results]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_a_folder_that_goes_away_is_one_line(tmp_path, monkeypatch):
    """Checkpoints become unwritable between the saves at 5 and 8."""
    original = Checkpointer.save

    def save(self, state, meta, *, score=None):
        if int(state.step) == 8:
            self.wait()
            (tmp_path / "checkpoints").rename(tmp_path / "kept")
            (tmp_path / "checkpoints").write_text("in the way")
        original(self, state, meta, score=score)

    monkeypatch.setattr(Checkpointer, "save", save)
    status, _, err = runs.command(workdir=tmp_path)
    assert status == 1
    assert err.count("\n") == 1
    assert "could not be written" in err
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"4", "5"}


@pytest.mark.slow
def test_a_write_that_fails_half_way_is_one_line(whole, tmp_path):
    """A limit on the size of a file stands for a disk that fills up during a save."""
    big = ("--config.model.embed_dim=64", "--config.steps=6")
    args = (*runs.TINY, f"--workdir={tmp_path}", *big)

    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env["JAX_PLATFORMS"] = "cpu"  # and no cache of programs, which would not fit
    done = runs.subprocess_command(*args, env=env, file_blocks=100)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a checkpoint could not be written")
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr


@pytest.mark.slow
def test_killed_at_random_it_ends_alike(home, capfd, tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.run(kills=4, steps=300, seed=0, root=tmp_path)
    assert "Bit-identical: parameters yes" in capfd.readouterr().out

"""The one training loop: restore, step, evaluate, checkpoint, report."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from vit_jax_tricks import banner, model_spec, report
from vit_jax_tricks.augment.pixels import to_float
from vit_jax_tricks.checkpoint import Checkpointer
from vit_jax_tricks.config import Section
from vit_jax_tricks.console import Bar, say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.evaluate import evaluate
from vit_jax_tricks.experiment import Experiment, build
from vit_jax_tricks.inspect.hardware import mfu
from vit_jax_tricks.inspect.nonfinite import first_nonfinite
from vit_jax_tricks.metrics import MetricsWriter, read
from vit_jax_tricks.resume import check_workdir, record
from vit_jax_tricks.state import TrainState
from vit_jax_tricks.step import normalize
from vit_jax_tricks.stop import Stop, Stopped


PATIENCE = 3  # non-finite steps in a row that end the run
LAG = 4  # steps that may be in flight before the host looks at a result


@dataclass
class Clock:
    """What a checkpoint holds beside the state, so that a resumed run is the same run.

    Attributes:
      metrics_offset: length of metrics.jsonl.
      seconds: spent in earlier processes.
      evaluated: the last step whose evaluation is in metrics.jsonl.
      sums, count: of the training metrics since the last line.
      best, best_step: the highest test accuracy so far and its step.
    """

    metrics_offset: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    best: float = 0.0
    best_step: int = 0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name in ("streak", "skipped"):
                continue
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        means = {f"train/{k}": v / self.count for k, v in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def run(config: Section, workdir: Path, stop: Stop | None = None) -> dict[str, float]:
    """Trains as `config` says and returns the last evaluation.

    Starting it again with the same arguments goes on where it stopped; the result is
    the same to the bit on the same machine.

    Raises:
      UserError: anything in the config, the data or the workdir that does not fit.
      Stopped: a signal arrived; everything is saved.
    """
    stop = stop or Stop()
    experiment = build(config)
    return Loop(experiment, Path(workdir), stop).run()


class Loop:
    """The state of one process's part of a run."""

    def __init__(self, experiment: Experiment, workdir: Path, stop: Stop):
        self.experiment, self.workdir, self.stop = experiment, workdir, stop
        config = experiment.config
        self.log_steps = config.log.steps
        self.save_steps = config.checkpoint.steps
        tensorboard, resume = config.log.tensorboard, config.resume
        self.checkpointer = Checkpointer(
            workdir / "checkpoints", keep=config.checkpoint.keep, say=say
        )
        self.name = config.name
        for key in ("log.steps", "checkpoint.steps"):
            value = self.log_steps if key == "log.steps" else self.save_steps
            if value is not None and value < 1:
                raise UserError(f"config.{key}={value}: expected at least 1.")
        config.assert_all_read()
        class_names = list(experiment.data.class_names)
        taught = experiment.teaching.fingerprint()
        check_workdir(workdir, config, class_names, taught, resume)
        self.state, meta = self._restore(resume)
        self.clock = Clock(**meta) if meta else Clock()
        self.start = int(self.state.step)
        if self.start > experiment.total_steps:
            raise UserError(
                f"{workdir} is at step {self.start}, beyond this config's "
                f"{experiment.total_steps}; train longer or use another --workdir."
            )
        self.finished = self.start == self.clock.evaluated == experiment.total_steps
        self.writer = MetricsWriter(
            workdir,
            tensorboard=tensorboard and not self.finished,
            offset=self.clock.metrics_offset,
            step=self.start,
        )
        spec = model_spec.of_run(experiment)
        record(workdir, config, class_names, spec.to_json(), taught)
        self.pending: deque[tuple[int, Any, Any]] = deque()
        self.began = time.monotonic()

    def _restore(self, resume: str) -> tuple[TrainState, dict[str, Any]]:
        found = None
        if resume != "never":
            found = self.checkpointer.restore(self.experiment.state_shape())
        if found is None and resume == "required":
            raise UserError(
                f"config.resume=required, but {self.workdir} holds no usable "
                "checkpoint; give the --workdir of an earlier run, or resume=auto."
            )
        if found is None:
            return self.experiment.compile_init(), {}
        say(f"resuming {self.workdir} at step {int(found[0].step)}")
        return found

    def run(self) -> dict[str, float]:
        try:
            if self.finished:
                say(f"{self.workdir} is finished; train longer or elsewhere")
                if not report.exists(self.workdir):
                    self._report(banner.facts(self.experiment))
                lines = [m for m in read(self.workdir) if "test/accuracy" in m]
                return {k: v for k, v in lines[-1].items() if k.startswith("test/")}
            facts, train_step, eval_step = self._compile()
            with self.stop.deferred():
                result = self._loop(train_step, eval_step)
                self._report(facts)
            return result
        finally:
            self.checkpointer.close()
            self.writer.close()

    def _compile(self) -> tuple[dict[str, Any], Any, Any]:
        say("compiling ...")
        began = time.monotonic()
        train_step = self.experiment.compile_train_step()
        eval_step = self.experiment.compile_eval_step()
        self.flops, facts = banner.show(
            self.experiment, train_step, self.workdir, time.monotonic() - began
        )
        return facts, train_step, eval_step

    def _loop(self, train_step: Any, eval_step: Any) -> dict[str, float]:
        x, total = self.experiment, self.experiment.total_steps
        result: dict[str, float] = {}
        bar = Bar(total, self.start)
        batches, frozen = x.train_batches(self.start), x.place_frozen()
        self.window = (time.monotonic(), self.start)
        step = self.start
        try:
            while True:
                if self._due(step):
                    self._drain(0)
                    result = self._evaluate(step, eval_step)
                    self._save(step, score=_best(result))
                    self.window = (time.monotonic(), step)
                if step == total:
                    return result
                self.stop.check()
                batch = x.put(next(batches))
                self.state, metrics = train_step(self.state, batch, frozen)
                step += 1
                self.pending.append((step, metrics, batch))
                self._drain(LAG)
                if step % self.log_steps == 0 or step == total:
                    self._drain(0)
                    bar.update(step, self._log(step))
                if self.save_steps and step % self.save_steps == 0:
                    self._drain(0)
                    self._save(step)
        except Stopped:
            self._drain(0)
            self._save(step)
            self.checkpointer.wait()
            self.stop.saved = True
            say(
                f"stopped and saved at step {step}; the same command goes on from there"
            )
            raise
        finally:
            bar.close()
            batches.close()

    def _due(self, step: int) -> bool:
        at_end = step == self.experiment.total_steps
        regular = step > 0 and step % self.experiment.eval_steps == 0
        return (at_end or regular) and self.clock.evaluated < step

    def _drain(self, lag: int) -> None:
        """Looks at finished steps, all but the newest `lag`."""
        while len(self.pending) > lag:
            step, metrics, batch = self.pending.popleft()
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            if values["streak"] >= PATIENCE:
                self._give_up(step, batch)
            if values["streak"]:
                say(f"step {step}: loss or gradient not finite; the step is skipped")
            else:
                self.clock.add(values)

    def _give_up(self, step: int, batch: dict[str, jax.Array]) -> None:
        keywords = self.experiment.train_step.keywords
        images = normalize(to_float(batch["image"]), keywords["mean"], keywords["std"])
        culprit = first_nonfinite(self.experiment.model, self.state.variables, images)
        raise UserError(
            f"{PATIENCE} steps in a row were not finite, the last of them step {step}; "
            f"first offender: {culprit}. Such steps change no parameter, so the "
            "checkpoints are sound; lower config.schedule.lr, or set "
            "config.optimizer.grad_clip=1.0."
        )

    def _log(self, step: int) -> str:
        """Writes the training line of this window; returns its short form."""
        x = self.experiment
        skipped = int(self.state.skipped)
        means = self.clock.take() | {
            "train/lr": float(jax.device_get(x.lr(max(step - 1 - skipped, 0)))),
            "train/skipped": float(skipped),
            "train/epoch": step * x.batch_size / x.data.num_train,
        }
        now = time.monotonic()
        rate = (step - self.window[1]) * x.batch_size / max(now - self.window[0], 1e-9)
        self.window = (now, step)
        times = {"time/images_per_second": rate, "time/seconds": self._seconds()}
        used = mfu(rate * self.flops, list(x.mesh.devices.flat))
        if used is not None:
            times["time/mfu"] = used
        self.writer.write(step, means | times)
        text = f"loss {means.get('train/loss', math.nan):.4f}  {rate:.0f} img/s"
        return text if used is None else f"{text}  MFU {used:.1%}"

    def _evaluate(self, step: int, eval_step: Any) -> dict[str, float]:
        variables = {"": self.state.variables}
        if self.state.ema is not None:
            ema = {k: v for k, v in self.state.ema.items() if v}
            variables["_ema"] = ema
        began = time.monotonic()
        result = evaluate(self.experiment, eval_step, variables, check=self.stop.check)
        result = {f"test/{k}": v for k, v in result.items()}
        seconds = time.monotonic() - began
        self.writer.write(step, result | {"time/eval_seconds": seconds})
        self.clock.evaluated = step
        if _best(result) > self.clock.best:
            self.clock.best, self.clock.best_step = _best(result), step
        shown = "  ".join(f"{k} {v:.4f}" for k, v in result.items() if "loss" not in k)
        say(f"step {step}  {shown}")
        return result

    def _save(self, step: int, score: float | None = None) -> None:
        self.clock.metrics_offset = self.writer.offset
        meta = vars(self.clock) | {"seconds": self._seconds()}
        self.checkpointer.save(self.state, meta, score=score)

    def _seconds(self) -> float:
        return self.clock.seconds + time.monotonic() - self.began

    def _report(self, facts: dict[str, Any]) -> None:
        best = f"{self.clock.best:.4f} at step {self.clock.best_step}"
        facts |= {
            "best test accuracy": best,
            "skipped steps": int(self.state.skipped),
            "seconds in the loop": f"{self._seconds():.1f}",
        }
        say(f"report: {report.write(self.workdir, facts)}")


def _best(result: dict[str, float]) -> float:
    """The better of the accuracies of the raw and the averaged parameters."""
    keys = ("test/accuracy", "test/accuracy_ema")
    return max(result[k] for k in keys if k in result)

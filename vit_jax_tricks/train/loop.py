"""The training loop: restores, steps, evaluates, checkpoints and reports.

Whatever ends it, an error or a signal, it first saves the state in memory.
"""

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from vit_jax_tricks import paths
from vit_jax_tricks.config import Section
from vit_jax_tricks.console import Bar, say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.resume import begun_is_over, check_run, open_workdir, record
from vit_jax_tricks.state import TrainState
from vit_jax_tricks.stop import Stop, Stopped
from vit_jax_tricks.storage.checkpoint import Checkpointer, SaveError
from vit_jax_tricks.storage.lock import locked
from vit_jax_tricks.train import banner, report
from vit_jax_tricks.train.clock import Clock
from vit_jax_tricks.train.experiment import Experiment, build
from vit_jax_tricks.train.hardware import mfu
from vit_jax_tricks.train.metrics import MetricsWriter, read


PATIENCE = 3  # non-finite steps in a row end the run
LAG = 4  # steps that may be in flight before the host reads a result


def run(
    config: Section, workdir: str | Path, stop: Stop | None = None
) -> dict[str, float]:
    """Trains as `config` specifies and returns the last evaluation.

    Starting it again with the same arguments resumes where it stopped; on the same
    machine the result is bit-identical.

    Args:
      config: as returned by `config.load`.
      workdir: new, empty, or that of the run, and local; no other process may write
        to it.
      stop: handles signals; if omitted, they are handled inside and end in
        KeyboardInterrupt (Ctrl-C) or SystemExit with the exit status.

    Raises:
      UserError: anything in the config, the data or the workdir that does not fit.
      Stopped: a signal arrived; everything is saved.
    """
    if stop is None:
        stop = Stop()
        with stop.installed():
            try:
                return run(config, workdir, stop)
            except Stopped as stopped:
                interrupted = stopped.code == 130
                kind = KeyboardInterrupt if interrupted else SystemExit
                raise kind(stopped.code) from stopped
    workdir = paths.absolute(workdir, "workdir=")
    return Loop(build(config), workdir, stop).run()


class Loop:
    """State of one process's part of a run."""

    def __init__(self, experiment: Experiment, workdir: Path, stop: Stop):
        self.experiment, self.workdir, self.stop = experiment, workdir, stop
        config = experiment.config
        self.log_steps = config.log.steps
        self.save_steps = config.checkpoint.steps
        self.tensorboard, self.resume = config.log.tensorboard, config.resume
        self.checkpointer = Checkpointer(
            workdir / "checkpoints", keep=config.checkpoint.keep, say=say
        )
        self.name = config.name
        for key in ("log.steps", "checkpoint.steps"):
            value = self.log_steps if key == "log.steps" else self.save_steps
            if value is not None and value < 1:
                raise UserError(f"config.{key}={value}: expected at least 1.")
        config.assert_all_read()
        self.writer: MetricsWriter | None = None
        self.pending: deque[tuple[int, Any, Any]] = deque()

    def run(self) -> dict[str, float]:
        open_workdir(self.workdir, self.resume)
        with locked(self.workdir, "give another workdir"):
            try:
                self._open()
                if self.finished:
                    return self._finished()
                facts, train_steps, eval_step = self._compile()
                with self.stop.deferred():
                    try:
                        result = self._loop(train_steps, eval_step)
                        self._last_words(facts)
                        return result
                    finally:
                        self._close()
            finally:
                self._close()

    def _open(self) -> None:
        """Restores or creates the state, and opens the metrics."""
        x, config = self.experiment, self.experiment.config
        kept = x.task.record()
        names, taught, data = list(kept.class_names), list(kept.teachers), kept.data
        check_run(self.workdir, config, names, taught, data, self.resume, kept.keys)
        self.state, meta = self._restore()
        self.start = int(self.state.step)
        self.clock = Clock.of(meta, self.start, say) if meta else Clock()
        if self.start > x.total_steps:
            raise UserError(
                f"{self.workdir} is at step {self.start}, beyond this config's "
                f"{x.total_steps}; train longer or use another workdir."
            )
        self.finished = self.start == self.clock.evaluated == x.total_steps
        self.writer = MetricsWriter(
            self.workdir,
            tensorboard=self.tensorboard and not self.finished,
            offset=self.clock.metrics_offset,
            step=self.start,
        )
        record(self.workdir, config, names, kept.model, taught, data)
        self.began = time.monotonic()

    def _restore(self) -> tuple[TrainState, dict[str, Any]]:
        found = None
        if self.resume != "never":
            found = self.checkpointer.restore(self.experiment.state_shape())
        if found is None and self.resume == "required":
            raise UserError(
                f"config.resume=required, but {self.workdir} holds no usable "
                "checkpoint; give the workdir of an earlier run, or resume=auto."
            )
        if found is None:
            return self.experiment.compile_init(), {}
        say(f"resuming {self.workdir} at step {int(found[0].step)}")
        return found

    def _close(self) -> None:
        try:
            self.checkpointer.close()
            begun_is_over(self.workdir)
        finally:
            if self.writer is not None:
                self.writer.close()

    def _finished(self) -> dict[str, float]:
        say(f"{self.workdir} is finished; train longer or elsewhere")
        if not report.exists(self.workdir):
            self._report(banner.facts(self.experiment))
        score = f"test/{self.experiment.task.score}"
        lines = [m for m in read(self.workdir) if score in m][-1:]
        return {k: v for m in lines for k, v in m.items() if k.startswith("test/")}

    def _compile(self) -> tuple[dict[str, Any], Any, Any]:
        say("compiling ...")
        began = time.monotonic()
        train_steps = self.experiment.compile_train_steps()
        eval_step = self.experiment.compile_eval_step()
        self.flops, facts = banner.show(
            self.experiment, train_steps, self.workdir, time.monotonic() - began
        )
        return facts, train_steps, eval_step

    def _loop(self, train_steps: Any, eval_step: Any) -> dict[str, float]:
        x, total, step = self.experiment, self.experiment.total_steps, self.start
        result: dict[str, float] = {}
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(_closing(Bar()))
            batches = stack.enter_context(_closing(x.train_batches(step)))
            frozen = x.place_frozen()
            stack.enter_context(self._saving_first())
            self.window = (time.monotonic(), step)
            bar(step, total)
            while True:
                if self._log_due(step):
                    self._drain(0)
                    bar(step, total, self._log(step))
                evaluate_now = self._evaluation_due(step)
                if evaluate_now or self._save_due(step):
                    self._drain(0)
                    self._save(step)
                if evaluate_now:
                    result = self._evaluate(step, eval_step)
                    self._save(step, score=self._best(result))
                    self.window = (time.monotonic(), step)
                if step == total:
                    self.checkpointer.wait()
                    return result
                self.stop.check()
                with self.stop.immediate():
                    batch = next(batches)
                batch = x.put(batch)
                train_step = train_steps[x.size_at(step)]
                self.state, metrics = train_step(self.state, batch, frozen)
                step += 1
                self.pending.append((step, metrics, batch))
                self._drain(LAG)

    @contextlib.contextmanager
    def _saving_first(self) -> Iterator[None]:
        """Saves the state in memory, whatever ends the loop, and says how to resume."""
        try:
            yield
        except BaseException as error:
            ended: BaseException = error
            if self.stop.requested is not None and not isinstance(error, Stopped):
                ended = Stopped(self.stop.requested)  # a read may have been interrupted
            words = self._rescue(ended)
            if words is not None and isinstance(ended, Stopped):
                with contextlib.suppress(OSError, UserError):  # output may be closed
                    say(words)
            elif words is not None:
                ended.add_note(f"{words[0].upper()}{words[1:].rstrip('.')}.")
            if ended is error:
                raise
            raise ended from error

    def _rescue(self, ended: BaseException) -> str | None:
        """Saves the newest state, if there is something to save."""
        try:
            if isinstance(ended, SaveError):
                raise ended
            step = int(self.state.step)
            if step == 0:
                return None
            self._drain(0, patient=True)
            self._save(step)
            self.checkpointer.wait()
        except Exception as why:
            newest = max(self.checkpointer.steps(), default=0)
            kept = (
                f"the newest saved step is {newest}" if newest else "no step is saved"
            )
            text = "" if why is ended else f", since saving failed: {_first_line(why)}"
            return f"{kept}{text}"
        self.stop.saved = True
        return f"stopped and saved at step {step}; the same command goes on from there"

    def _last_words(self, facts: dict[str, Any]) -> None:
        self.stop.saved = True
        try:
            self._report(facts)
        except Exception as error:
            error.add_note(
                f"All {self.experiment.total_steps} steps are done and saved; the same "
                "command writes the report."
            )
            raise

    def _log_due(self, step: int) -> bool:
        due = step % self.log_steps == 0 or step == self.experiment.total_steps
        return due and step > self.clock.logged

    def _save_due(self, step: int) -> bool:
        return bool(self.save_steps) and step > 0 and step % self.save_steps == 0

    def _evaluation_due(self, step: int) -> bool:
        return self.experiment.evaluates_after(step) and self.clock.evaluated < step

    def _drain(self, lag: int, *, patient: bool = False) -> None:
        """Reads the results of finished steps, all but the newest `lag`."""
        while len(self.pending) > lag:
            step, metrics, batch = self.pending.popleft()
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            finite = all(map(math.isfinite, (values["loss"], values["grad_norm"])))
            if values["streak"] >= PATIENCE and not patient:
                self._give_up(step, batch, finite)
            if values["streak"]:
                what = "the update is" if finite else "loss or gradient"
                say(f"step {step}: {what} not finite; the step is skipped")
            else:
                self.clock.add(values)

    def _give_up(self, step: int, batch: dict[str, jax.Array], finite: bool) -> None:
        text = (
            f"{PATIENCE} steps in a row were not finite, the last of them step {step}"
        )
        kept = "Such steps change no parameter, so the checkpoints are sound"
        if finite:
            raise UserError(
                f"{text}: loss and gradient are finite, but the optimizer's "
                f"update is not. {kept}; config.schedule.lr is far too high."
            )
        culprit = self.experiment.task.culprit(self.state.variables, batch)
        raise UserError(
            f"{text}; first offender: {culprit}. {kept}; lower "
            "config.schedule.lr, or set config.optimizer.grad_clip=1.0."
        )

    def _log(self, step: int) -> str:
        """Writes the training line of this window; returns its short form."""
        x = self.experiment
        skipped = int(self.state.skipped)
        means = self.clock.means() | {
            "train/lr": float(jax.device_get(x.lr(max(step - 1 - skipped, 0)))),
            "train/skipped": float(skipped),
            "train/epoch": step * x.batch_size / x.task.num_train,
        }
        now = time.monotonic()
        began, since = self.window
        rate = (step - since) * x.batch_size / max(now - began, 1e-9)
        costs = [self.flops[x.size_at(s)] for s in range(since, step)]
        self.window = (now, step)
        times = {"time/images_per_second": rate, "time/seconds": self._seconds()}
        used = mfu(rate * statistics.fmean(costs or [0.0]), list(x.mesh.devices.flat))
        if used is not None:
            times["time/mfu"] = used
        self._write(step, means | times)
        self.clock.line_written(step)
        text = f"loss {means.get('train/loss', math.nan):.4f}  {rate:.0f} img/s"
        return text if used is None else f"{text}  MFU {used:.1%}"

    def _evaluate(self, step: int, eval_step: Any) -> dict[str, float]:
        variables = {"": self.state.variables}
        if self.state.averages is not None:
            variables["_ema"] = self.state.averages
        began = time.monotonic()
        with self.stop.immediate():
            result = self.experiment.evaluate(
                eval_step, variables, check=self.stop.check
            )
        result = {f"test/{k}": v for k, v in result.items()}
        seconds = time.monotonic() - began
        self._write(step, result | {"time/eval_seconds": seconds})
        self.clock.evaluated = step
        if self._best(result) > self.clock.best:
            self.clock.best, self.clock.best_step = self._best(result), step
        shown = "  ".join(f"{k} {v:.4f}" for k, v in result.items() if "loss" not in k)
        say(f"step {step}  {shown}")
        return result

    def _write(self, step: int, values: dict[str, float]) -> None:
        assert self.writer is not None
        self.writer.write(step, values)

    def _save(self, step: int, score: float | None = None) -> None:
        assert self.writer is not None
        self.clock.metrics_offset = self.writer.offset
        meta = vars(self.clock) | {"seconds": self._seconds()}
        self.checkpointer.save(self.state, meta, score=score)

    def _seconds(self) -> float:
        return self.clock.seconds + time.monotonic() - self.began

    def _best(self, result: dict[str, float]) -> float:
        """The better of the scores of the raw and the averaged parameters.

        Variables whose loss is not finite have no score, not even that of chance.
        """
        score = f"test/{self.experiment.task.score}"
        scores = [
            result[f"{score}{suffix}"]
            for suffix in ("", "_ema")
            if math.isfinite(result.get(f"test/loss{suffix}", math.nan))
        ]
        return max(scores, default=0.0)

    def _report(self, facts: dict[str, Any]) -> None:
        best = f"{self.clock.best:.4f} at step {self.clock.best_step}"
        score = self.experiment.task.score
        facts |= {
            f"best test {score}": best,
            "skipped steps": int(self.state.skipped),
            "seconds in the loop": f"{self._seconds():.1f}",
        }
        say(f"report: {report.write(self.workdir, facts, score)}")


@contextlib.contextmanager
def _closing(thing: Any) -> Iterator[Any]:
    """Closes `thing` afterwards; a bar may fail to, if its output is closed."""
    try:
        yield thing
    finally:
        with contextlib.suppress(OSError):
            thing.close()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

"""An experiment: a config made concrete as task, optimiser, schedule and steps.

Every command starts from an `Experiment`: `loop.py` loops over it, tests check its
shapes, and benchmarks time it. It compiles nothing until asked.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks import ema, sharding, tasks
from vit_jax_tricks.config import Section
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.optim import optimizer, schedule
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.runs.scores import measured
from vit_jax_tricks.state import TrainState, create
from vit_jax_tricks.tasks.task import batch_of
from vit_jax_tricks.train.step import Average, train_step
from vit_jax_tricks.typing import Params


@dataclass(frozen=True)
class Experiment:
    """A config made concrete; create it with `build`.

    Attributes:
      task: what is trained, with its data.
      lr, peak_lr: the learning rate by update, and its highest value.
      optimizer: the whole optax chain.
      average: the moving average of the variables, or None.
      total_steps: length of the run.
      eval_steps: steps between evaluations, on average; need not be an integer.
    """

    config: Section
    seed: int
    task: Any  # `Any`: its own parts are known to those who know the task
    mesh: Mesh
    optimizer: optax.GradientTransformation
    lr: schedule.Schedule
    peak_lr: float
    average: Average | None
    total_steps: int
    eval_steps: float
    batch_size: int
    accumulate: int
    eval_batch_size: int

    @property
    def has_ema(self) -> bool:
        return self.average is not None

    @property
    def train_step(self) -> Callable[..., Any]:
        """`(state, batch, frozen) -> (state, metrics)`, pure and not jitted."""
        return self.train_step_at(None)

    def train_step_at(self, variant: int | None) -> Callable[..., Any]:
        """The training step of a variant of the task."""
        return functools.partial(
            train_step,
            task=self.task.at(variant),
            optimizer=self.optimizer,
            average=self.average,
            accumulate=self.accumulate,
        )

    def init(self) -> TrainState:
        """The initial state, from the seed alone."""
        return self._state(self.task.init(self._init_key()))

    def _init_key(self) -> Any:
        return fold_in_str(jax.random.key(self.seed), "init")

    def _state(self, variables: Any) -> TrainState:
        """The state before step 0, from the first variables."""
        key = jax.random.key(self.seed)
        return create(variables, optimizer=self.optimizer, key=key, ema=self.has_ema)

    def state_shape(self) -> TrainState:
        """Shapes and shardings of the state."""
        return self._state_shape

    @functools.cached_property
    def _state_shape(self) -> TrainState:
        shape = jax.eval_shape(self.init)
        return jax.tree.map(
            lambda s, n: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=n),
            shape,
            sharding.state_shardings(shape, self.mesh, self.task.roles),
        )

    def batch_shape(self, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of a training or evaluation batch."""
        size = self.batch_size if train else self.eval_batch_size
        shapes = self.task.train_batch if train else self.task.eval_batch
        return batch_of(shapes, size, sharding.batch_sharding(self.mesh))

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation is due: at the end, and nearest to each interval."""
        nearest = round(step / self.eval_steps)
        near = range(max(nearest - 1, 1), nearest + 2)
        due = any(round(n * self.eval_steps) == step for n in near)
        return step == self.total_steps or (step > 0 and due)

    def compile_init(self) -> TrainState:
        """The state before step 0 on the mesh: from the task's source, or random.

        Random initialisation runs under the mesh, so that no device ever holds the
        whole state.

        Raises: UserError as `task.start`.
        """
        at = jax.tree.map(lambda s: s.sharding, self.state_shape())
        if self.task.start is None:
            with jax.set_mesh(self.mesh):
                return jax.jit(self.init, out_shardings=at)()
        variables = self.task.start(self._init_key())
        with jax.set_mesh(self.mesh):
            return jax.jit(self._state, out_shardings=at)(jax.device_get(variables))

    def train_batches(self, start_step: int = 0) -> Any:
        """Endless host batches from `start_step` on.

        Raises: UserError as `task.train_batches`.
        """
        return self.task.train_batches(
            self.batch_size, seed=self.seed, start_step=start_step
        )

    def place_frozen(self) -> Any:
        """Places the teachers' variables on the mesh, for the training step."""
        return jax.device_put([*self.task.frozen], self._frozen_shardings())

    def _frozen_shape(self) -> Any:
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            [*self.task.frozen],
            self._frozen_shardings(),
        )

    def _frozen_shardings(self) -> list[Any]:
        every = zip(self.task.frozen, self.task.frozen_roles, strict=True)
        return [sharding.state_shardings(one, self.mesh, r) for one, r in every]

    def size_at(self, step: int) -> int | None:
        """The variant of the task at a step, such as its image size; None for one."""
        return self.task.variant_at(step) if self.task.variants else None

    def compile_train_steps(self) -> dict[int | None, Any]:
        """The program of each `size_at`: one, or one for each variant."""
        if not self.task.variants:
            return {None: self.compile_train_step()}
        return {size: self.compile_train_step(size) for size in self.task.variants}

    def compile_train_step(self, size: int | None = None) -> jax.stages.Compiled:
        """`(state, batch, frozen) -> (state, metrics)`; donates the state's buffers."""
        step = self.train_step_at(size)
        state = self.state_shape()
        at = jax.tree.map(lambda s: s.sharding, state)
        whole = NamedSharding(self.mesh, PartitionSpec())
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(at, whole))
            shapes = state, self.batch_shape(train=True), self._frozen_shape()
            return jitted.lower(*shapes).compile()

    def compile_eval_step(self) -> Callable[[Any, Any], Any]:
        """`(variables, batch) -> sums`, for the parameters and for their averages."""
        state, batch = self.state_shape(), self.batch_shape(train=False)
        whole = NamedSharding(self.mesh, PartitionSpec())
        programs: dict[Any, jax.stages.Compiled] = {}
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.task.evaluate, out_shardings=whole)
            for variables in (state.variables, state.averages or {}):
                if variables and _dtypes(variables) not in programs:
                    program = jitted.lower(variables, batch).compile()
                    programs[_dtypes(variables)] = program
        if len(programs) == 1:
            return next(iter(programs.values()))
        return lambda variables, batch: programs[_dtypes(variables)](variables, batch)

    def put(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """Places a host batch on the mesh."""
        return jax.device_put(batch, sharding.batch_sharding(self.mesh))

    def evaluate(
        self,
        eval_step: Callable[..., Any],
        variables: Mapping[str, Params],
        *,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """The task's metrics of the test split for each named set of variables.

        Args:
          eval_step: as `compile_eval_step` returns it.
          variables: by suffix: {"": raw, "_ema": averaged}.
          check: called before each batch; may raise to stop.
        """
        batches = self.task.eval_batches(
            "test",
            batch_size=self.eval_batch_size,
            sharding=sharding.batch_sharding(self.mesh),
            progress=lambda done, total: check(),
        )
        found = measured(self.task, batches, variables, eval_step)
        return {name: value for name, value in found.items() if name != "count"}


def _dtypes(tree: Any) -> tuple[str, ...]:
    return tuple(str(leaf.dtype) for leaf in jax.tree.leaves(tree))


def build(config: Section, *, devices: Sequence[Any] | None = None) -> Experiment:
    """Reads the whole config and checks everything that needs no compilation.

    Raises:
      UserError: any value that does not fit, with a valid one.
    """
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    batch_size, accumulate = config.batch_size, config.accumulate
    pieces = sharding.batch_divisor(mesh)
    check_batch(batch_size, accumulate, pieces)
    seed = config.seed
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed}: expected 0 to {2**32 - 1}.")
    task = tasks.build(config, mesh)
    task.check_accumulate(accumulate)
    if batch_size > task.num_train:
        raise UserError(
            f"config.batch_size={batch_size} is larger than the {task.num_train} "
            f"training examples of {task.data_name}; give at most that."
        )
    steps_per_epoch = task.num_train / batch_size
    total_steps = _total_steps(config, steps_per_epoch)
    lr, peak_lr = _schedule(config.schedule, batch_size, total_steps, steps_per_epoch)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    eval_batch = _positive("eval.batch_size", config.eval.batch_size)
    eval_epochs = _positive("eval.epochs", config.eval.epochs)
    return Experiment(
        config=config,
        seed=seed,
        task=task,
        mesh=mesh,
        optimizer=optimizer.build(
            params, schedule=lr, roles=task.roles, **config.optimizer
        ),
        lr=lr,
        peak_lr=peak_lr,
        average=_average_of(config.ema),
        total_steps=total_steps,
        eval_steps=eval_epochs * steps_per_epoch,
        batch_size=batch_size,
        accumulate=accumulate,
        eval_batch_size=-(-eval_batch // pieces) * pieces,
    )


def check_batch(batch_size: int, accumulate: int, pieces: int) -> None:
    """Raises UserError unless the batch divides by devices times micro-batches."""
    unit = pieces * _positive("accumulate", accumulate)
    if _positive("batch_size", batch_size) % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        near = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"config.batch_size={batch_size} does not divide by {unit} "
            f"({pieces} batch shard(s) x accumulate={accumulate}); use {near}."
        )


def _average_of(section: Section) -> Average | None:
    """The moving average of `config.ema`; None without one."""
    decay, warmup = section.decay, section.warmup
    if decay is None:
        return None
    if not 0 <= decay < 1:
        raise UserError(f"config.ema.decay={decay}: expected 0 <= decay < 1.")
    return functools.partial(_average, decay=decay, warmup=warmup)


def _average(average: Any, current: Any, updates: Any, *, decay: float, warmup: bool):
    return ema.ema_update(average, current, decay=decay, step=updates, warmup=warmup)


def _positive(name: str, value: Any) -> Any:
    if not value > 0:
        raise UserError(f"config.{name}={value}: expected a positive number.")
    return value


def _total_steps(config: Section, steps_per_epoch: float) -> int:
    epochs, steps = config.epochs, config.steps
    if steps is not None:
        return int(_positive("steps", steps))
    return max(1, round(_positive("epochs", epochs) * steps_per_epoch))


def _schedule(
    section: Section, batch_size: int, total_steps: int, steps_per_epoch: float
) -> tuple[schedule.Schedule, float]:
    options = dict(section)
    per = options.pop("lr_per")
    scale = 1.0 if per is None else batch_size / _positive("schedule.lr_per", per)
    for key in ("lr", "warmup_lr", "min_lr", "cooldown_epochs"):
        if options[key] < 0:
            raise UserError(f"config.schedule.{key}={options[key]}: expected >= 0.")
    options["lr"] *= scale
    warmup = round(options.pop("warmup_epochs") * steps_per_epoch)
    if not 0 <= warmup < total_steps:
        raise UserError(
            f"config.schedule.warmup_epochs is {warmup} steps of a run of "
            f"{total_steps}; expected 0 or more and less than "
            f"{total_steps / steps_per_epoch:.2f} epochs."
        )
    made = schedule.make(
        total_steps=total_steps,
        warmup_steps=warmup,
        cooldown_steps=round(options.pop("cooldown_epochs") * steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        **options,
    )
    return made, options["lr"]

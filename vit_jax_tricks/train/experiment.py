"""An experiment: a config made concrete as data, model, loss, optimiser and steps.

Every command starts from an `Experiment`: `train.py` loops over it, tests check its
shapes, and benchmarks time it. It compiles nothing until asked.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks import augment, data, ema, sharding
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.config import Section
from vit_jax_tricks.console import say
from vit_jax_tricks.data.prefetch import Prefetch
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.registry import channel_statistics
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.optim import optimizer, schedule
from vit_jax_tricks.pretrained.load import load_pretrained
from vit_jax_tricks.random import fold_in_str
from vit_jax_tricks.runs import quant_config, scores
from vit_jax_tricks.runs.model_spec import ModelSpec, fields_of
from vit_jax_tricks.state import TrainState, create
from vit_jax_tricks.teach import teaching
from vit_jax_tricks.train import multi_scale, step


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Experiment:
    """A config made concrete; create it with `build`.

    Attributes:
      spec: the model with its preprocessing, as recorded in the workdir.
      train_step, eval_step: pure functions, not jitted.
      lr, peak_lr: the learning rate by update, and its highest value.
      optimizer: the whole optax chain.
      teaching: teachers and stored labels.
      total_steps: length of the run.
      eval_steps: steps between evaluations, on average; need not be an integer.
      source: source of the initial weights, as `load_pretrained` takes it; None:
        random.
      quantized: the model with its quantisation, which both steps apply; or None.
      calibration: number of images for its initial ranges.
      scales: the steps of multi-scale training, or None.
    """

    config: Section
    seed: int
    data: data.Data
    model: nn.Module
    spec: ModelSpec
    mesh: Mesh
    optimizer: optax.GradientTransformation
    lr: schedule.Schedule
    train_step: Any
    eval_step: Any
    teaching: teaching.Teaching
    peak_lr: float
    total_steps: int
    eval_steps: float
    batch_size: int
    eval_batch_size: int
    has_ema: bool
    source: str | None = None
    quantized: QuantizedModel | None = None
    calibration: int = 0
    scales: multi_scale.MultiScale | None = None

    def init(self) -> TrainState:
        """The initial state, from the seed alone."""
        images = jnp.zeros((1, *self.data.image_shape), jnp.float32)
        key = fold_in_str(jax.random.key(self.seed), "init")
        variables: Any = self.model.init(key, images, train=False)
        if self.quantized is not None:
            variables = self.quantized.with_any_ranges(variables)
        return self._state(variables)

    def _state(self, variables: Any) -> TrainState:
        """The state before step 0, from the model's variables."""
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
            sharding.state_shardings(shape, self.mesh),
        )

    def batch_shape(self, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of a training or evaluation batch."""
        b = self.batch_size if train else self.eval_batch_size
        at = sharding.batch_sharding(self.mesh)
        shapes: dict[str, tuple] = {
            "image": ((b, *self.data.image_shape), jnp.uint8 if train else jnp.float32),
            "label": ((b,), jnp.int32),
            "index": ((b,), jnp.int32),
        }
        if train:
            more = self.teaching.shapes().items()
            shapes |= {name: ((b, *shape), dtype) for name, (shape, dtype) in more}
        else:
            shapes["mask"] = ((b,), jnp.float32)
        return {
            k: jax.ShapeDtypeStruct(shape, dtype, sharding=at)
            for k, (shape, dtype) in shapes.items()
        }

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation is due: at the end, and nearest to each interval."""
        nearest = round(step / self.eval_steps)
        near = range(max(nearest - 1, 1), nearest + 2)
        due = any(round(n * self.eval_steps) == step for n in near)
        return step == self.total_steps or (step > 0 and due)

    def compile_init(self) -> TrainState:
        """The state before step 0 on the mesh: loaded from `source`, or random.

        Random initialisation runs under the mesh, so that no device ever holds the
        whole state. Ranges are calibrated on one device, so that they are the same on
        any mesh.

        Raises: UserError as `load_pretrained`.
        """
        at = jax.tree.map(lambda s: s.sharding, self.state_shape())
        if self.source is None and self.quantized is None:
            with jax.set_mesh(self.mesh):
                return jax.jit(self.init, out_shardings=at)()
        if self.source is None:
            variables = jax.jit(lambda: self.init().variables)()
        else:
            key = fold_in_str(jax.random.key(self.seed), "init")
            variables, _ = load_pretrained(self.model, self.source, key=key)
        if self.quantized is not None:
            sample = self.data.sample(self.calibration, "train", self.seed)
            say(f"calibrating on {self.data.name}: {sample}")
            variables = quant_config.calibrated(
                self.quantized,
                variables,
                self.data,
                sample,
                mean=self.spec.mean,
                std=self.spec.std,
            )
        with jax.set_mesh(self.mesh):
            return jax.jit(self._state, out_shardings=at)(jax.device_get(variables))

    def train_batches(self, start_step: int = 0) -> Prefetch:
        """Endless host batches from `start_step` on, with the pack's labels, if any.

        Raises: UserError as `Data.train_batches` and `LabelPack.rows`.
        """
        more = None
        if self.teaching.pack is not None:
            more = functools.partial(self.teaching.rows, self.data)
        return self.data.train_batches(
            self.batch_size,
            seed=self.seed,
            start_step=start_step,
            boxes=more is not None,
            more=more,
        )

    def place_frozen(self) -> list[Any]:
        """Places the teachers' variables on the mesh, for the training step."""
        variables = [teacher.variables for teacher in self.teaching.teachers]
        return jax.device_put(variables, sharding.state_shardings(variables, self.mesh))

    def _frozen_shape(self) -> list[Any]:
        variables = [teacher.variables for teacher in self.teaching.teachers]
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            variables,
            sharding.state_shardings(variables, self.mesh),
        )

    def size_at(self, step: int) -> int | None:
        """The image size of a step of multi-scale training, of (seed, step) alone."""
        return None if self.scales is None else self.scales.size(step)

    def compile_train_steps(self) -> dict[int | None, Any]:
        """The program of each `size_at`: one, or one for each size."""
        if self.scales is None:
            return {None: self.compile_train_step()}
        return {size: self.compile_train_step(size) for size in self.scales.steps}

    def compile_train_step(self, size: int | None = None) -> jax.stages.Compiled:
        """`(state, batch, frozen) -> (state, metrics)`; donates the state's buffers."""
        train_step = self.train_step
        if self.scales is not None and size is not None:
            train_step = self.scales.steps[size]
        state = self.state_shape()
        at = jax.tree.map(lambda s: s.sharding, state)
        whole = NamedSharding(self.mesh, PartitionSpec())
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(at, whole))
            shapes = state, self.batch_shape(train=True), self._frozen_shape()
            return jitted.lower(*shapes).compile()

    def compile_eval_step(self) -> Callable[[Any, Any], Any]:
        """`(variables, batch) -> sums`, for the parameters and for their averages."""
        state, batch = self.state_shape(), self.batch_shape(train=False)
        whole = NamedSharding(self.mesh, PartitionSpec())
        programs: dict[Any, jax.stages.Compiled] = {}
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.eval_step, out_shardings=whole)
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


def _dtypes(tree: Any) -> tuple[str, ...]:
    return tuple(str(leaf.dtype) for leaf in jax.tree.leaves(tree))


def build(config: Section, *, devices: Sequence[Any] | None = None) -> Experiment:
    """Reads the whole config and checks everything that needs no compilation.

    Raises:
      UserError: any value that does not fit, with a valid one.
    """
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    batch_size, accumulate = config.batch_size, config.accumulate
    check_batch(batch_size, accumulate, sharding.batch_divisor(mesh))
    source = data.build(**config.data)
    if batch_size > source.num_train:
        raise UserError(
            f"config.batch_size={batch_size} is larger than the {source.num_train} "
            f"training examples of {source.name}; give at most that."
        )

    dtype = _dtype(config.dtype, mesh)
    overrides = config.model.without("name")
    for key, decides in (("num_classes", "the data"), ("dtype", "config.dtype")):
        if key in overrides:
            raise UserError(f"config.model.{key}: {decides} decides it; leave it out.")
    h, w, _ = source.image_shape
    overrides.setdefault("img_size", h if h == w else (h, w))
    if source.image_shape[2] != 3:
        overrides.setdefault("in_chans", source.image_shape[2])
    name = config.model.name
    model = create_model(name, num_classes=source.num_classes, dtype=dtype, **overrides)
    mean, std = channel_statistics(name, source.image_shape[2])

    steps_per_epoch = source.num_train / batch_size
    total_steps = _total_steps(config, steps_per_epoch)
    lr, peak_lr = _schedule(config.schedule, batch_size, total_steps, steps_per_epoch)
    images = jax.ShapeDtypeStruct((1, *source.image_shape), jnp.float32)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    quantized = quant_config.quantized(model, config.quant)
    if quantized is not None:
        shapes = jax.eval_shape(quantized.with_any_ranges, shapes)
    applied = model if quantized is None else quantized
    chain = optimizer.build(shapes["params"], schedule=lr, **config.optimizer)

    seed = config.seed
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed}: expected 0 to {2**32 - 1}.")
    decay, warmup = config.ema.decay, config.ema.warmup
    if decay is not None and not 0 <= decay < 1:
        raise UserError(f"config.ema.decay={decay}: expected 0 <= decay < 1.")
    average = None
    if decay is not None:
        average = functools.partial(_average, decay=decay, warmup=warmup)
    augmentation = dict(config.augment)
    stack = augment.from_config(mean=mean, **augmentation)
    objective = Objective(config.loss)
    taught = teaching.build(
        config.teacher,
        objective=objective,
        source=source,
        model=model,
        mean=mean,
        std=std,
        dtype=dtype,
    )
    train_step = functools.partial(
        step.train_step,
        model=applied,
        optimizer=chain,
        objective=objective,
        num_classes=source.num_classes,
        mean=mean,
        std=std,
        augment=stack.augment,
        erase=stack.erase,
        mix=stack.mix,
        mix_first=stack.mix_first,
        stored=taught.stored,
        teach=taught.teach,
        average=average,
        accumulate=accumulate,
        costly_update=config.optimizer.name in optimizer.COSTLY,
    )

    def at(size: int, at_size: Any) -> Any:
        resizing = augment.from_config(mean=mean, size=size, **augmentation)
        return functools.partial(train_step, model=at_size, augment=resizing.augment)

    scales = multi_scale.build(
        augmentation["multi_scale"],
        every=augmentation["multi_scale_every"],
        seed=seed,
        model=model,
        applied=applied,
        needs=objective.needs,
        at=at,
    )
    eval_step = functools.partial(scores.eval_step, model=applied)
    pieces = sharding.batch_divisor(mesh)
    eval_batch = _positive("eval.batch_size", config.eval.batch_size)
    eval_epochs = _positive("eval.epochs", config.eval.epochs)
    return Experiment(
        config=config,
        seed=seed,
        data=source,
        model=model,
        spec=ModelSpec(
            name=name,
            fields=fields_of(model),
            mean=mean,
            std=std,
            view=source.view,
            class_names=tuple(source.class_names),
            quant=None if quantized is None else config.quant.to_dict(),
        ),
        mesh=mesh,
        optimizer=chain,
        lr=lr,
        peak_lr=peak_lr,
        train_step=train_step,
        eval_step=eval_step,
        teaching=taught,
        total_steps=total_steps,
        eval_steps=eval_epochs * steps_per_epoch,
        batch_size=batch_size,
        eval_batch_size=-(-eval_batch // pieces) * pieces,
        has_ema=average is not None,
        source=config.init,
        quantized=quantized,
        calibration=quant_config.images_of(config.quant),
        scales=scales,
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


def _average(average: Any, current: Any, updates: Any, *, decay: float, warmup: bool):
    return ema.ema_update(average, current, decay=decay, step=updates, warmup=warmup)


def _positive(name: str, value: Any) -> Any:
    if not value > 0:
        raise UserError(f"config.{name}={value}: expected a positive number.")
    return value


def _dtype(name: str, mesh: Mesh) -> Any:
    if name == "auto":
        name = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f'config.dtype="{name}": expected auto, float32 or bfloat16.')
    return DTYPES[name]


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

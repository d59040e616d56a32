"""Supervised classification, with teachers, label packs, several sizes and QAT."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax_tricks import augment, data
from vit_jax_tricks.augment.pixels import normalize, to_float
from vit_jax_tricks.compress.quant.model import QuantizedModel
from vit_jax_tricks.config import Section
from vit_jax_tricks.console import say
from vit_jax_tricks.data import Data
from vit_jax_tricks.data.fingerprint import fingerprint
from vit_jax_tricks.data.prefetch import Prefetch
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.registry import channel_statistics
from vit_jax_tricks.objectives import Objective
from vit_jax_tricks.objectives.targets import Stored, Teach, as_targets
from vit_jax_tricks.objectives.term import Readings
from vit_jax_tricks.pretrained.load import load_pretrained
from vit_jax_tricks.runs import quant_config, scores
from vit_jax_tricks.runs.model_spec import ModelSpec, fields_of
from vit_jax_tricks.runs.scores import Model
from vit_jax_tricks.state import variables
from vit_jax_tricks.tasks import multi_scale
from vit_jax_tricks.tasks.nonfinite import first_nonfinite
from vit_jax_tricks.tasks.task import Batch, Key, Metrics, Record, Task
from vit_jax_tricks.teach import teaching
from vit_jax_tricks.teach.teaching import Teaching
from vit_jax_tricks.typing import Array, Float, Params, PRNGKeyArray


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Augment = Callable[[PRNGKeyArray, Array, Array], tuple[Array, Any]]
Erase = Callable[[PRNGKeyArray, Array, Array], Array]
Mix = Callable[[PRNGKeyArray, Array, Array], tuple[Array, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Task):
    """A task that trains one image classifier, and the parts that it is made of.

    Attributes:
      data: the images.
      model: the classifier.
      spec: the model with its preprocessing, as recorded in the workdir.
      teaching: teachers and stored labels.
      quantized: the model with its quantisation, which both steps apply; or None.
      calibration: number of images for its initial ranges.
      scales: the sizes of multi-scale training, or None.
    """

    data: Data
    model: nn.Module
    spec: ModelSpec
    teaching: Teaching
    quantized: QuantizedModel | None = None
    calibration: int = 0
    scales: multi_scale.MultiScale | None = None


def prepare(
    key: Key,
    batch: Batch,
    *,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment,
    erase: Erase | None = None,
    mix: Mix,
    mix_first: bool = False,
    stored: Stored | None = None,
) -> dict[str, Any]:
    """augment → normalise → erase → mix.

    Args:
      key: the name of a stream -> its key.
      batch: image uint8 [b, h, w, c], label int32 [b], index int32 [b], and the inputs
        of `stored`.
      num_classes: k.
      mean, std: for each channel, for images in [0, 1].
      augment: (key, uint8 images [b, h, w, c], index [b]) -> (images, geometry), the
        images uint8 or float in [0, 1]; draws for each image.
      erase: (key, normalised images, index) -> images, or None.
      mix: (key, images, labels [b, k]) -> (images, labels); with `stored`, the labels
        are a dict of "label" and the results of `stored`.
      mix_first: mixes before normalising and erasing, so that erased boxes stay whole.
      stored: (geometry, batch) -> labels that come with the data, such as those of a
        label pack, for the augmented images; they are mixed with the images.

    Returns:
      image, label [b, k] and the results of `stored`.
    """
    images, geometry = augment(key("augment"), batch["image"], batch["index"])
    images = to_float(images)
    labels: Any = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
    if stored is not None:
        labels = {"label": labels, **stored(geometry, batch)}
    if mix_first:
        images, labels = mix(key("mix"), images, labels)
    images = normalize(images, mean, std)
    if erase is not None:
        images = erase(key("erase"), images, batch["index"])
    if not mix_first:
        images, labels = mix(key("mix"), images, labels)
    return {"image": images, **({"label": labels} if stored is None else labels)}


def forward_loss(
    params: Params,
    batch_stats: Params,
    inputs: Batch,
    frozen: Any,
    *,
    key: Key,
    step: Any = None,
    model: Model,
    objective: Objective,
    teach: Teach | None = None,
) -> tuple[Array, tuple[Metrics, Params]]:
    """teach → forward → loss.

    Args:
      params, batch_stats: the model's.
      inputs: as `prepare` returns them.
      frozen: variables of teachers, for `teach`.
      key: the name of a stream -> its key; "dropout" and those of terms are used.
      step: for the terms.
      model: `model.apply(variables, images, train=True)` returns `(logits, aux)`, with
        logits in at least float32.
      objective: the loss.
      teach: (frozen, images) -> the teachers' outputs for the images as the model gets
        them.

    Returns:
      The loss, and the metrics (loss, accuracy, each term) with the new batch_stats.
    """

    def run(images: Array | None, dropout: PRNGKeyArray) -> Any:
        return model.apply(
            variables(params, batch_stats),
            inputs["image"] if images is None else images,
            train=True,
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )

    (logits, aux), updates = run(None, key("dropout"))
    targets = as_targets(inputs)
    if teach is not None:
        targets |= teach(frozen, inputs["image"])
    label = inputs["label"].astype(logits.dtype)
    readings = Readings(
        logits=logits,
        aux=aux,
        labels=label,
        targets=targets,
        key=key,
        step=step,
        forward=lambda images, dropout: run(images, dropout)[0],
    )
    losses, terms = objective(readings)
    hits = jnp.argmax(logits, -1) == jnp.argmax(label, -1)
    metrics = {"loss": losses.mean(), "accuracy": hits.astype(jnp.float32).mean()}
    if len(terms) > 1:
        metrics |= {f"loss_{name}": term.mean() for name, term in terms.items()}
    return metrics["loss"], (metrics, updates.get("batch_stats", {}))


def build(config: Section, mesh: Mesh) -> Supervised:
    """Reads `model`, `data`, `augment`, `loss`, `teacher`, `quant` and `init`.

    Raises:
      UserError: any value that does not fit, with a valid one.
    """
    source = data.build(**config.data)
    dtype = _dtype(config.dtype, mesh)
    name = config.model.name
    model = _model(config.model, source, dtype)
    mean, std = channel_statistics(name, source.image_shape[2])
    quantized = quant_config.quantized(model, config.quant)
    applied = model if quantized is None else quantized
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
    loss = functools.partial(
        forward_loss, model=applied, objective=objective, teach=taught.teach
    )
    prepared = functools.partial(
        prepare,
        num_classes=source.num_classes,
        mean=mean,
        std=std,
        augment=stack.augment,
        erase=stack.erase,
        mix=stack.mix,
        mix_first=stack.mix_first,
        stored=taught.stored,
    )
    spec = ModelSpec(
        name=name,
        fields=fields_of(model),
        mean=mean,
        std=std,
        view=source.view,
        class_names=tuple(source.class_names),
        quant=None if quantized is None else config.quant.to_dict(),
    )
    calibration = quant_config.images_of(config.quant)
    init = functools.partial(
        _init, model=model, quantized=quantized, image_shape=source.image_shape
    )
    measure = scores.classifying(applied, source, mean=mean, std=std)
    task = Supervised(
        train_batch=_shapes(source, jnp.uint8) | taught.shapes(),
        eval_batch=_shapes(source, jnp.float32) | {"mask": ((), jnp.float32)},
        init=init,
        prepare=prepared,
        forward_loss=loss,
        evaluate=measure.evaluate,
        means=measure.means,
        num_train=source.num_train,
        train_batches=functools.partial(_train_batches, source, taught),
        eval_batches=measure.eval_batches,
        title=name,
        facts=_facts(source, model, quantized, config),
        data_name=source.name,
        roles=model.roles,
        frozen=[teacher.variables for teacher in taught.teachers],
        frozen_roles=[teacher.trained.model.roles for teacher in taught.teachers],
        forward=functools.partial(_forward, model),
        culprit=functools.partial(_culprit, model=model, mean=mean, std=std),
        record=functools.partial(_record, source, spec, taught),
        data=source,
        model=model,
        spec=spec,
        teaching=taught,
        quantized=quantized,
        calibration=calibration,
    )
    if config.init is not None or quantized is not None:
        start = functools.partial(_start, task=task, init=config.init, seed=config.seed)
        task = dataclasses.replace(task, start=start)

    def at(size: int, at_size: Any) -> Supervised:
        resizing = augment.from_config(mean=mean, size=size, **augmentation)
        smaller = multi_scale.at_size(model, model, size)
        return dataclasses.replace(
            task,
            prepare=functools.partial(prepared, augment=resizing.augment),
            forward_loss=functools.partial(loss, model=at_size),
            forward=functools.partial(_forward, smaller),
            eval_batch=dict(task.eval_batch)
            | {"image": ((size, size, source.channels), jnp.float32)},
        )

    scales = multi_scale.build(
        augmentation["multi_scale"],
        every=augmentation["multi_scale_every"],
        seed=config.seed,
        model=model,
        applied=applied,
        needs=objective.needs,
        at=at,
    )
    if scales is None:
        return task
    return dataclasses.replace(
        task,
        scales=scales,
        variants=scales.tasks,
        variant_at=scales.size,
        facts={**task.facts, "image sizes": scales.words()},
    )


def _dtype(name: str, mesh: Mesh) -> Any:
    if name == "auto":
        name = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f'config.dtype="{name}": expected auto, float32 or bfloat16.')
    return DTYPES[name]


def _model(section: Section, source: Data, dtype: Any) -> nn.Module:
    """The classifier for the images and the classes of the data."""
    overrides = section.without("name")
    for key, decides in (("num_classes", "the data"), ("dtype", "config.dtype")):
        if key in overrides:
            raise UserError(f"config.model.{key}: {decides} decides it; leave it out.")
    h, w, channels = source.image_shape
    overrides.setdefault("img_size", h if h == w else (h, w))
    if channels != 3:
        overrides.setdefault("in_chans", channels)
    name, classes = section.name, source.num_classes
    return create_model(name, num_classes=classes, dtype=dtype, **overrides)


def _shapes(source: Data, pixels: Any) -> dict[str, tuple]:
    return {
        "image": (source.image_shape, pixels),
        "label": ((), jnp.int32),
        "index": ((), jnp.int32),
    }


def _init(
    key: PRNGKeyArray,
    *,
    model: Any,
    quantized: QuantizedModel | None,
    image_shape: tuple[int, ...],
) -> Params:
    """Random variables, with ranges of the right shapes if the model is quantised."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    found: Any = model.init(key, images, train=False)
    return found if quantized is None else quantized.with_any_ranges(found)


def _start(key: PRNGKeyArray, *, task: Supervised, init: str | None, seed: int) -> Any:
    """The variables of `config.init`, or random ones, with calibrated ranges.

    Ranges are calibrated on one device, so that they are the same on any mesh.

    Raises: UserError as `load_pretrained`.
    """
    if init is None:
        found = jax.jit(task.init)(key)
    else:
        found, _ = load_pretrained(task.model, init, key=key)
    if task.quantized is None:
        return found
    sample = task.data.sample(task.calibration, "train", seed)
    say(f"calibrating on {task.data.name}: {sample}")
    mean, std = task.spec.mean, task.spec.std
    return quant_config.calibrated(
        task.quantized, found, task.data, sample, mean=mean, std=std
    )


def _train_batches(
    source: Data,
    taught: Teaching,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
) -> Prefetch:
    """Endless host batches from `start_step` on, with the pack's labels, if any.

    Raises: UserError as `Data.train_batches` and `LabelPack.rows`.
    """
    more = None if taught.pack is None else functools.partial(taught.rows, source)
    return source.train_batches(
        batch_size,
        seed=seed,
        start_step=start_step,
        boxes=more is not None,
        more=more,
    )


def _facts(
    source: Data, model: Any, quantized: QuantizedModel | None, config: Section
) -> dict[str, Any]:
    shape = "×".join(map(str, source.image_shape))
    quant = config.quant
    kinds = f"weights {quant['weights']}, activations {quant['activations']}"
    if quant["learned"]:
        kinds += ", learned steps"
    return {
        **({"quantized": kinds} if quantized is not None else {}),
        "compute type": jnp.dtype(model.dtype).name,
        "data": f"{source.name}: {source.num_train:,} train, {source.num_test:,} test, "
        f"{source.num_classes} classes, {shape}",
    }


def _forward(model: Any, found: Params, batch: Batch) -> Float[Array, "b k"]:
    return model.apply(found, batch["image"], train=False)[0]


def _culprit(found: Params, batch: Batch, *, model: Any, mean: Any, std: Any) -> str:
    return first_nonfinite(model, found, normalize(batch["image"], mean, std))


def _record(source: Data, spec: ModelSpec, taught: Teaching) -> Record:
    return Record(
        class_names=list(source.class_names),
        model=spec.to_json(),
        teachers=taught.fingerprint(),
        data=fingerprint(source),
    )

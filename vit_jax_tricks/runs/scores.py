"""Accuracy and loss over whole splits: one evaluation step, and sums over batches."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from vit_jax_tricks.data import Data
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.typing import Array, Params


LAG = 4  # batches that may be on the device at once


@runtime_checkable
class Model(Protocol):
    """A Flax module, or a `QuantizedModel` around one."""

    def apply(self, variables: Any, /, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Measure(Protocol):
    """Measures variables on a split: a `Task`, or `Classifying`.

    `eval_batches` (split, *, batch_size, sharding, progress) yields batches on the
    devices; `evaluate` (variables, batch) gives sums over a batch; `means` converts
    their totals to metrics.
    """

    @property
    def evaluate(self) -> Callable[..., dict[str, Array]]: ...

    @property
    def means(self) -> Callable[..., dict[str, float]]: ...

    @property
    def eval_batches(self) -> Callable[..., Iterable[dict[str, Array]]]: ...


class Classifying(NamedTuple):
    """The `Measure` of an image classifier."""

    evaluate: Callable[..., dict[str, Array]]
    means: Callable[..., dict[str, float]]
    eval_batches: Callable[..., Iterable[dict[str, Array]]]


def classifying(
    model: Model, source: Data, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Classifying:
    """Accuracy and loss of a model, whose images are normalised, on data."""
    return Classifying(
        evaluate=functools.partial(eval_step, model=model),
        means=functools.partial(means, num_classes=source.num_classes),
        eval_batches=functools.partial(model_inputs, source, mean=mean, std=std),
    )


def eval_step(
    model_variables: Params,
    batch: dict[str, Array],
    *,
    model: Model,
) -> dict[str, Array]:
    """Sums over the real examples of a batch; padding (mask 0) does not count.

    Args:
      model_variables: as the model takes them.
      batch: normalised images with labels and mask, as `model_inputs` yields them.
      model: `model.apply(variables, images, train=False)` returns `(logits, aux)`.

    Returns:
      correct and correct5 (top-1 and top-5 hits; top-k for k < 5 classes), loss (the
        plain cross-entropy) and count, float32 [].
    """
    logits, _ = model.apply(model_variables, batch["image"], train=False)
    labels, mask = batch["label"], batch["mask"].astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    _, top = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (top == labels[:, None]).astype(jnp.float32)
    return {
        "correct": jnp.sum(hits[:, 0] * mask),
        "correct5": jnp.sum(hits.sum(-1) * mask),
        "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        "count": jnp.sum(mask),
    }


def measured(
    measure: Measure,
    batches: Iterable[dict[str, Array]],
    variables: Mapping[str, Params],
    step: Callable[..., dict[str, Array]],
) -> dict[str, float]:
    """Metrics of each set of variables over all batches.

    Args:
      measure: gives the means.
      batches: as `measure.eval_batches` yields them.
      variables: by the suffix of their metrics: {"": raw, "_ema": averaged}.
      step: `measure.evaluate`, compiled.

    Returns:
      count, the number of examples, and the metrics, each with its suffix.
    """
    totals = tally(batches, step, variables)
    out: dict[str, float] = {"count": next(iter(totals.values()))["count"]}
    for suffix, sums in totals.items():
        found = measure.means(sums)
        out |= {f"{name}{suffix}": value for name, value in found.items()}
    return out


def tally(
    batches: Iterable[dict[str, Array]],
    eval_step: Callable,
    variables: Mapping[str, Params],
) -> dict[str, dict[str, float]]:
    """Sums of `eval_step` over batches, by the suffix of the variables."""
    totals: dict[str, dict[str, float]] = {}
    sums = []
    for batch in batches:
        sums.append({s: eval_step(v, batch) for s, v in variables.items()})
        if len(sums) > LAG:
            jax.block_until_ready(sums[-LAG])
    for batch_sums in jax.device_get(sums):
        for suffix, values in batch_sums.items():
            total = totals.setdefault(suffix, dict.fromkeys(values, 0.0))
            for name, value in values.items():
                total[name] += float(value)
    return totals


def means(sums: Mapping[str, float], *, num_classes: int) -> dict[str, float]:
    """accuracy, loss (nats) and, for more than 5 classes, accuracy_top5, in 0..1."""
    count = sums["count"]
    out = {"accuracy": sums["correct"] / count, "loss": sums["loss"] / count}
    if num_classes > 5:
        out["accuracy_top5"] = sums["correct5"] / count
    return out

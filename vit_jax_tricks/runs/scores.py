"""Accuracy and loss over whole splits: one evaluation step, and sums over batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.runs.model_spec import ModelSpec
from vit_jax_tricks.sharding import batch_sharding
from vit_jax_tricks.typing import Array, Params


LAG = 4  # batches that may be on the device at once


@runtime_checkable
class Model(Protocol):
    """A Flax module, or a `QuantizedModel` around one."""

    def apply(self, variables: Any, /, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Evaluated(Protocol):
    """Interface that `evaluate` needs; an `Experiment` implements it."""

    @property
    def data(self) -> Any: ...

    @property
    def eval_batch_size(self) -> int: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def mesh(self) -> Mesh: ...


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


def evaluate(
    experiment: Evaluated,
    eval_step: Callable,
    variables: dict[str, Params],
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Accuracy and loss over the test split for each named set of variables.

    Args:
      experiment: provides the data and the mesh.
      eval_step: compiled, `(variables, batch) -> sums`.
      variables: by suffix: {"": raw, "_ema": averaged}.
      check: called before each batch; may raise to stop.

    Returns:
      accuracy, accuracy_top5 (for more than 5 classes) and loss, each with its suffix,
        in 0..1 and nats.
    """
    batches = model_inputs(
        experiment.data,
        "test",
        batch_size=experiment.eval_batch_size,
        mean=experiment.spec.mean,
        std=experiment.spec.std,
        sharding=batch_sharding(experiment.mesh),
        progress=lambda done, total: check(),
    )
    totals = tally(batches, eval_step, variables)
    return means(totals, experiment.data.num_classes)


def tally(
    batches: Iterable[dict[str, Array]],
    eval_step: Callable,
    variables: dict[str, Params],
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


def means(
    totals: Mapping[str, Mapping[str, float]], num_classes: int
) -> dict[str, float]:
    """Metrics computed from the sums, each with its suffix."""
    out = {}
    for suffix, total in totals.items():
        count = total["count"]
        out[f"accuracy{suffix}"] = total["correct"] / count
        out[f"loss{suffix}"] = total["loss"] / count
        if num_classes > 5:
            out[f"accuracy_top5{suffix}"] = total["correct5"] / count
    return out

"""Accuracy and loss over whole splits: one evaluation step, and sums over batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from vit_jax_tricks.augment.pixels import normalize
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

    def put(self, batch: dict[str, Any]) -> dict[str, jax.Array]: ...


def eval_step(
    model_variables: Params,
    batch: dict[str, Array],
    *,
    model: Model,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> dict[str, Array]:
    """Sums over the real examples of a batch; padding (mask 0) does not count.

    Returns:
      correct and correct5 (top-1 and top-5 hits; top-k for k < 5 classes), loss (the
        plain cross-entropy) and count, float32 [].
    """
    images = normalize(batch["image"], mean, std)
    logits, _ = model.apply(model_variables, images, train=False)
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
    totals = tally(experiment, eval_step, variables, ("test",), lambda done: check())
    return means(totals, experiment.data.num_classes)


def tally(
    experiment: Evaluated,
    eval_step: Callable,
    variables: dict[str, Params],
    splits: Sequence[str],
    progress: Callable[[int], None],
) -> dict[str, dict[str, float]]:
    """Sums of `eval_step` over whole splits, by suffix.

    `progress` is called with the number of batches done, before each batch.
    """
    totals: dict[str, dict[str, float]] = {}
    sums = []
    for split in splits:
        batches = experiment.data.test_batches(experiment.eval_batch_size, split)
        for batch in batches:
            progress(len(sums))
            placed = experiment.put(batch)
            sums.append({s: eval_step(v, placed) for s, v in variables.items()})
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

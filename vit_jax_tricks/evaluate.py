"""Evaluation: every example of the test split counted once, on any batch or mesh."""

from collections.abc import Callable

import jax

from vit_jax_tricks.experiment import Experiment
from vit_jax_tricks.typing import Params


def evaluate(
    experiment: Experiment,
    eval_step: Callable,
    variables: dict[str, Params],
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Accuracy and loss over the test split for each named set of variables.

    Args:
      experiment: gives the data and the mesh.
      eval_step: compiled, `(variables, batch) -> sums`.
      variables: by suffix: {"": raw, "_ema": averaged}.
      check: called before each batch; may raise to stop.

    Returns:
      accuracy, accuracy_top5 (for more than 5 classes) and loss, each with its suffix,
      in 0..1 and nats.
    """
    totals: dict[str, dict[str, float]] = {}
    sums = []
    for batch in experiment.data.test_batches(experiment.eval_batch_size):
        check()
        placed = experiment.put(batch)
        sums.append({s: eval_step(v, placed) for s, v in variables.items()})
    for batch_sums in jax.device_get(sums):
        for suffix, values in batch_sums.items():
            total = totals.setdefault(suffix, dict.fromkeys(values, 0.0))
            for name, value in values.items():
                total[name] += float(value)
    out = {}
    for suffix, total in totals.items():
        count = total["count"]
        out[f"accuracy{suffix}"] = total["correct"] / count
        out[f"loss{suffix}"] = total["loss"] / count
        if experiment.data.num_classes > 5:
            out[f"accuracy_top5{suffix}"] = total["correct5"] / count
    return out

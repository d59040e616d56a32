"""Measures a model: `python -m vit_jax_tricks.evaluate --workdir=DIR`.

Reports accuracy, top-5 accuracy and loss, counting every example exactly once on any
batch size or mesh. A run is measured on its own data as in training; other weights on
--data, with the model's own crop and normalisation.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax

from vit_jax_tricks import command
from vit_jax_tricks.typing import Params


if TYPE_CHECKING:
    from vit_jax_tricks.stop import Stop

USAGE = f"""{(__doc__ or "").strip()}

{command.MODEL_USAGE}\
  --data=SPEC            digits, digit_scenes/64, folder:PATH or tfds:NAME
  --data.KEY=VALUE       set one key of the config's data section
  --split=test           test, train, or all: both together
  --batch_size=256       examples per batch
  --json                 print one JSON line; everything else goes to standard error
  --help                 show this text
"""


LAG = 4  # batches that may be on the device at once


@runtime_checkable
class Evaluated(Protocol):
    """Interface that `evaluate` needs; an `Experiment` implements it."""

    @property
    def data(self) -> Any: ...

    @property
    def eval_batch_size(self) -> int: ...

    def put(self, batch: dict[str, Any]) -> dict[str, jax.Array]: ...


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
    """Sums of `step.eval_step` over whole splits, by suffix.

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


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_evaluate, argv, USAGE)


def _evaluate(argv: list[str], stop: "Stop") -> None:
    import json

    from vit_jax_tricks import console, evaluation

    given = command.parse(
        argv,
        values=(*command.MODEL_VALUES, "data", "split", "batch_size"),
        switches=("json",),
        sections=("model", "data"),
    )
    as_json = given.get("json") is not None
    with console.elsewhere(as_json):
        result = evaluation.measure(given)
        for name, value in result.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            console.say(f"{name:18} {shown}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())

"""Body of the command `evaluate`: any trained model on any data."""

import json

from vit_jax_tricks import config, runs, tasks
from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.data import open_data
from vit_jax_tricks.commands.model import load
from vit_jax_tricks.console import Bar, elsewhere, say
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.data import SPECS
from vit_jax_tricks.stop import Stop


def run(
    *,
    model: groups.Model,
    data: groups.Data,
    split: str,
    batch_size: int,
    as_json: bool,
    stop: Stop,
) -> None:
    """Measures the model and prints its facts, then the metrics.

    Raises:
      UserError: options that contradict one another, and as `runs.evaluate`.
    """
    if model.workdir is None and data.name is None:
        raise UserError(f"give --data=SPEC: {SPECS}.")
    with elsewhere(as_json):
        if (task := _other_task(model)) is not None:
            _check_alone(task, model, data)
            measured, source = model.workdir, None
            facts = {"weights": str(model.workdir)}
        else:
            measured = load(model, resize="area", both=True)
            source = open_data(measured, data)
            facts = {"weights": measured.source, "data": source.name}
        with Bar("batch", batch_size, check=stop.check) as show:
            found = runs.evaluate(
                measured, source, split=split, batch_size=batch_size, progress=show
            )
        result = {**facts, **found}
        for name, value in result.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            say(f"{name:18} {shown}")
    if as_json:
        print(json.dumps(result))


def _other_task(model: groups.Model) -> str | None:
    """The task of the run, unless it trains an image classifier."""
    if model.workdir is None:
        return None
    task = config.task_of_run(model.workdir)
    return None if task == tasks.DEFAULT else task


def _check_alone(task: str, model: groups.Model, data: groups.Data) -> None:
    """Raises UserError for options that only image classifiers have."""
    plain = groups.Model(workdir=model.workdir), groups.Data()
    if (model, data) != plain:
        raise UserError(
            f"{model.workdir} is a run of the task {task}, which brings its own model "
            "and data; give only --workdir, --split, --batch_size and --json."
        )

"""Body of the command `evaluate`: any trained model on any data."""

import json

from vit_jax_tricks import runs
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
        trained = load(model, resize="area", both=True)
        source = open_data(trained, data)
        with Bar("batch", batch_size, check=stop.check) as show:
            found = runs.evaluate(
                trained, source, split=split, batch_size=batch_size, progress=show
            )
        result = {"weights": trained.source, "data": source.name, **found}
        for name, value in result.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            say(f"{name:18} {shown}")
    if as_json:
        print(json.dumps(result))

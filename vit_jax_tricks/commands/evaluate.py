"""Body of the command `evaluate`: any trained model on any data."""

from typing import Any

from vit_jax_tricks import runs
from vit_jax_tricks.commands import data, model
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.console import Bar
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs.data import SPECS
from vit_jax_tricks.runs.evaluation import SPLITS
from vit_jax_tricks.stop import Stop


def run(given: Arguments, stop: Stop) -> dict[str, Any]:
    """Measures what a command line names: its facts, then the metrics.

    Raises:
      UserError: flags that contradict one another, and as `runs.evaluate`.
    """
    split = given.choice("split", tuple(SPLITS), "test")
    if given.get("workdir") is None and given.get("data") is None:
        raise UserError(f"give --data=SPEC: {SPECS}.")
    batch_size = given.whole("batch_size", 256) or 256
    trained = model.load(given, resize="area", both=True)
    source = data.open_data(trained, given)
    with Bar("batch", batch_size, check=stop.check) as show:
        found = runs.evaluate(
            trained, source, split=split, batch_size=batch_size, progress=show
        )
    return {"weights": trained.source, "data": source.name, **found}

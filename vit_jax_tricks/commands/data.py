"""The data that a command line names: --data and --data.KEY, or the run's own."""

from vit_jax_tricks.commands import groups
from vit_jax_tricks.commands.model import flags
from vit_jax_tricks.data import Data
from vit_jax_tricks.runs import data
from vit_jax_tricks.runs.trained import Trained


def open_data(trained: Trained, given: groups.Data) -> Data:
    """`runs.open_data` of --data, --data.KEY and the run."""
    with flags():
        return data.open_data(trained, given.name, **given.keys)

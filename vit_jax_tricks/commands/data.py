"""The data that a command line names: --data and --data.KEY, or the run's own."""

from typing import Any

from vit_jax_tricks import config
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.commands.model import flags
from vit_jax_tricks.data import Data
from vit_jax_tricks.runs import data
from vit_jax_tricks.runs.trained import Trained


def open_data(trained: Trained, given: Arguments) -> Data:
    """`runs.open_data` of --data, --data.KEY and the run."""
    with flags():
        return data.open_data(trained, given.get("data"), **options(given))


def options(given: Arguments) -> dict[str, Any]:
    """The values of --data.KEY=VALUE."""
    return config.typed("data", given.sections["data"])

"""Tasks: what a run trains, by the name in `config.task`.

A new task is a file here that builds a `Task` from a config, and its entry in `TASKS`;
the step, the loop and the commands stay unchanged.
"""

from collections.abc import Callable

from jax.sharding import Mesh

from vit_jax_tricks.config import Section
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.tasks import supervised
from vit_jax_tricks.tasks.task import Record, Task


__all__ = ["DEFAULT", "TASKS", "Record", "Task", "build"]

DEFAULT = "supervised"
TASKS: dict[str, Callable[[Section, Mesh], Task]] = {
    DEFAULT: supervised.build,
}


def build(config: Section, mesh: Mesh) -> Task:
    """Builds the task that `config.task` names, from its own keys.

    Raises:
      UserError: an unknown name, and whatever does not fit.
    """
    name = config.task
    if name not in TASKS:
        raise UserError(f'config.task="{name}": unknown.{nearest(name, TASKS)}')
    return TASKS[name](config, mesh)

"""Configs: ml_collections files, command-line overrides, and tracking of unread keys.

A run reads its config through `Section`, which remembers every key that was read;
`Section.assert_all_read` then stops the run if a key would have no effect.
"""

from vit_jax_tricks.config.load import (
    config_dir,
    defaults,
    filled,
    load,
    located,
    of_run,
    recorded,
    section_of_run,
    task_of_run,
    typed,
)
from vit_jax_tricks.config.section import Section
from vit_jax_tricks.config.values import (
    OPEN_SECTIONS,
    argument,
    parse_arg,
    parse_value,
    tuples,
)


__all__ = [
    "OPEN_SECTIONS",
    "Section",
    "argument",
    "config_dir",
    "defaults",
    "filled",
    "load",
    "located",
    "of_run",
    "parse_arg",
    "parse_value",
    "recorded",
    "section_of_run",
    "task_of_run",
    "tuples",
    "typed",
]

"""Exports weights in the reference's own key names."""

from pathlib import Path

import jax
import numpy as np

from vit_jax_tricks import paths
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.registry import lookup
from vit_jax_tricks.models.stacking import flatten
from vit_jax_tricks.pretrained.files import write_weights
from vit_jax_tricks.pretrained.fit import checked_grid
from vit_jax_tricks.pretrained.rules import find_key, key_names
from vit_jax_tricks.typing import Params


def export_weights(
    variables: Params,
    name: str,
    path: str | Path,
    *,
    dialect: str | None = None,
    grid: tuple[int, int] | None = None,
) -> None:
    """Writes variables as the reference implementation of model `name` would.

    Loading the file restores the same variables. Stacked blocks are unstacked.
    `dialect` selects another program's key names, such as "official" for Swin. `grid`,
    the `model.grid` of (rows, columns), is recorded in the file's metadata; a model
    whose grid is not square needs it, or models of another size cannot resample its
    position tables.

    Raises:
        UserError: an unknown name or dialect, a parameter that this reference does not
        have, or a grid that is not two whole numbers.
    """
    sides = checked_grid(grid)
    target = paths.absolute(path)
    write_weights(target, reference_arrays(variables, name, dialect), grid=sides)


def reference_arrays(
    variables: Params, name: str, dialect: str | None = None
) -> dict[str, np.ndarray]:
    """Converts variables to a dictionary in the names and layouts of model `name`."""
    entry = lookup(name)
    dialects = key_names(entry.family).dialects
    if dialect is not None and dialect not in dialects:
        raise UserError(
            f'dialect "{dialect}" is unknown for {name}; use one of '
            f"{', '.join(dialects)}."
        )
    rules = dialects[dialect or entry.dialect]
    arrays = {}
    for our_path, value in flatten(jax.tree.map(np.asarray, variables)).items():
        found = find_key(our_path, rules)
        if found is None:
            raise UserError(
                f"{name} has no key for {our_path}; export under the name of a model "
                "that has this parameter."
            )
        key, rule = found
        arrays[key] = rule.transform.export(value)
    return arrays

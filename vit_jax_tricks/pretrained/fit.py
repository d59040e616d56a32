"""Fits arrays of another shape or grid to a model."""

import inspect
import math
from typing import Any

import numpy as np

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.pretrained.rules import KeyRule


class Fit:
    """Fits arrays of another shape or grid by the rules' own resize functions.

    `options` are passed to the functions that accept them.
    """

    def __init__(self, model: Any, source: str, **options: Any):
        self._model, self._source = model, source
        self._options = {k: v for k, v in options.items() if v}
        self._taken: set[str] = set()
        self.notes: list[str] = []

    def __call__(
        self,
        name: str,
        array: np.ndarray,
        expected: tuple[int, ...],
        path: str,
        rule: KeyRule,
    ) -> np.ndarray:
        """Returns the fitted array, or the array itself if it already fits."""
        takes = _parameters(rule.resize)
        if array.shape == expected and not takes & {"old_grid", "old_model"}:
            return array
        reason = "check the model's name and overrides."
        if rule.resize is not None and array.ndim == len(expected):
            options = {k: v for k, v in self._options.items() if k in takes}
            self._taken |= options.keys()
            try:
                fitted = rule.resize(array, expected, self._model, path, **options)
                self._note_guess(name, fitted is array, takes)
                return fitted
            except UserError as error:
                reason = str(error)
        raise UserError(
            f"{self._source}: {name} has shape {array.shape}, the model expects "
            f"{expected}; {reason}"
        )

    def check_grid_was_read(self) -> None:
        """Raises UserError if a grid was given but nothing used it."""
        if "old_grid" not in self._taken:
            raise UserError(
                f"grid={self._options['old_grid']}: {self._source} has no position "
                "table on a grid for this model; leave it out."
            )

    def _note_guess(self, name: str, kept: bool, takes: set[str]) -> None:
        """Notes, once, that a table may have another grid than was assumed."""
        if "old_grid" not in takes or "old_grid" in self._options or self.notes:
            return
        h, w = self._model.grid
        if h == w or (kept and math.isqrt(h * w) ** 2 != h * w):
            return  # the grid is square, or cannot be mistaken for a square
        taken = f"the model's grid of {h} x {w}" if kept else "a square grid"
        self.notes.append(
            f"{name} was taken to be of {taken}; give grid=(rows, columns) if the "
            "file's is another"
        )


def checked_grid(grid: Any) -> tuple[int, int] | None:
    """Returns the user's grid, or None. Raises UserError unless it has two sides."""
    if grid is None:
        return None
    sides = tuple(grid) if isinstance(grid, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise UserError(f"grid={grid!r}: expected (rows, columns), such as (14, 14).")
    return sides[0], sides[1]


def _parameters(function: Any) -> set[str]:
    return set() if function is None else set(inspect.signature(function).parameters)

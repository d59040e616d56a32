"""Multi-scale training: a task for each image size, and the size of each step.

The parameters are those of the model at the size that the data is read at; a table of
positions is resampled to the grid of the step's size inside the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.multi_scale import training_size
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.wrapper import ModelWrapper
from vit_jax_tricks.objectives import TERMS
from vit_jax_tricks.objectives.targets import TARGETS
from vit_jax_tricks.pretrained.resize import resize_positions
from vit_jax_tricks.sharding import path_str
from vit_jax_tricks.typing import Array, Num, Params


KEY = "config.augment.multi_scale"


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """The tasks of a run that trains at several image sizes.

    Attributes:
      tasks: the task of each size.
      every: number of steps in a row that have one size.
      seed: the run's.
    """

    tasks: Mapping[int, Any]
    every: int
    seed: int

    def size(self, step: int) -> int:
        """The image size of a step, of (seed, step) alone."""
        return training_size(step, list(self.tasks), every=self.every, seed=self.seed)

    def words(self) -> str:
        """The sizes, for people."""
        held = f", {self.every} steps each" if self.every > 1 else ""
        return f"{', '.join(map(str, sorted(self.tasks)))}{held}"


@dataclasses.dataclass(frozen=True)
class Rescaled(ModelWrapper):
    """A model, or a quantised one, that takes the variables of another image size.

    The position table is resampled, bicubic with antialiasing, as timm does with
    `dynamic_img_size`.

    Attributes:
      model: the model at the new size.
      grid: the rows and columns of the variables' position table.
    """

    grid: tuple[int, int]

    def apply(
        self,
        variables: Mapping[str, Any],
        images: Num[Array, "b h w c"],
        **options: Any,
    ) -> Any:
        """As `model.apply`, with the position table resampled."""
        return self.model.apply(self.fitted(variables), images, **options)

    def fitted(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables, with the position table on the grid of `model`."""
        params: Params = dict(variables["params"])
        name = self.model.position_table
        table = params[name]
        flat = table if table.ndim == 3 else table.reshape(1, -1, table.shape[-1])
        prefix = self.model.position_prefix
        fitted = resize_positions(
            flat.astype(jnp.float32), self.model.grid, prefix=prefix, old_grid=self.grid
        ).astype(table.dtype)
        if table.ndim != 3:
            fitted = fitted.reshape(1, *self.model.grid, table.shape[-1])
        params[name] = fitted
        return {**variables, "params": params}


def build(
    sizes: Sequence[int],
    *,
    every: int,
    seed: int,
    model: Any,
    applied: Any,
    needs: frozenset[str],
    at: Callable[[int, Any], Any],
) -> MultiScale | None:
    """The tasks of `config.augment.multi_scale`; None without sizes.

    Args:
      sizes: image sizes, of square images.
      every, seed: as in `MultiScale`.
      model: the model at the size that the data is read at.
      applied: the model, or a quantised one, that the step applies.
      needs: the teacher outputs of the objective.
      at: (size, model) -> the task.

    Raises:
      UserError: a size that the data, the model or the objective does not allow.
    """
    if not sizes:
        return None
    h, w, _ = model.image_shape
    if h != w:
        raise UserError(f"{KEY} needs square images, and the data's are {h}x{w}.")
    for size in sizes:
        if size > h:
            raise UserError(
                f"{KEY}={tuple(sizes)}: {size} is above the {h} pixels that the data "
                f"is read at; set config.data.image_size={max(sizes)}, or leave it out."
            )
    gridded = [name for name in sorted(needs) if TARGETS[name].gridded]
    if gridded:
        terms = [name for name, entry in TERMS.items() if entry.needs & set(gridded)]
        raise UserError(
            f"{KEY}={tuple(sizes)}: {gridded[0]} of a teacher have one grid, that of "
            f"{h}x{h} images; use multi_scale=() with config.loss."
            f"{' and '.join(terms)}."
        )
    tasks = {size: at(size, at_size(model, applied, size)) for size in sizes}
    return MultiScale(tasks, every, seed)


def at_size(model: Any, applied: Any, size: int) -> Any:
    """What the step applies to images of another size, with the same variables.

    Raises:
      UserError: the model takes no images of this size.
    """
    h, w, _ = model.image_shape
    if (h, w) == (size, size):
        return applied
    try:
        other = model.at_size(size)
    except UserError as error:
        text = str(error).replace("img_size=", "size ")
        raise UserError(f"{KEY}: {size} does not fit the model: {text}") from error
    if model.any_size:
        return applied
    moved = _differences(_shapes(model), _shapes(other))
    if moved not in ([], [f"params/{model.position_table}"]):
        use = "a model with a position for each patch, such as deit_small_patch16_224"
        if model.size_option is not None:
            use = f"config.model.{model.size_option}"
        raise UserError(
            f"{KEY}: {type(model).__name__} takes only images of {h}x{w}, because the "
            f"shape of {moved[0]} depends on their size; use {use}, or multi_scale=()."
        )
    moved_to = applied.at_size(size)
    return Rescaled(moved_to, model.grid) if moved else moved_to


def _shapes(model: Any) -> Any:
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


def _differences(one: Any, other: Any) -> list[str]:
    """Paths of the leaves whose shapes differ."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {path_str(path): leaf.shape for path, leaf in found}

    a, b = shapes(one), shapes(other)
    return [path for path in sorted(a.keys() | b.keys()) if a.get(path) != b.get(path)]

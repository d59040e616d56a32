"""Prunable groups of a model: the heads and the hidden units of each block.

They are found without rules for each layer: a model with one more unit has parameters
that are longer along one axis, and that is the unit's axis.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.pruned import KINDS, whole
from vit_jax_tricks.param_names import by_path


Plan = Mapping[str, Sequence[int]]  # kept indices of each group, by its name


@dataclasses.dataclass(frozen=True)
class Group:
    """The heads, or the hidden units, of one block.

    Attributes:
      block: its path, `blocks_3` or `layers_1/blocks_0`.
      kind: "heads" or "hidden".
      size: the number of heads or units.
      place: the path of the linear layer that takes their outputs.
      axes: for the path of each parameter that holds a part of them, the axis, and how
        often they occur along it (twice in a packed SwiGLU).
    """

    block: str
    kind: str
    size: int
    place: str
    axes: Mapping[str, tuple[int, int]]

    @property
    def name(self) -> str:
        """Name of the group, such as `blocks_3/heads`."""
        return f"{self.block}/{self.kind}"

    @property
    def layer(self) -> str:
        """Path of the attention layer or MLP that contains them."""
        return self.place.rpartition("/")[0]


def find_groups(model: Any, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Group]:
    """Finds all groups of the given kinds by name, in the order of the blocks.

    Parameters are named as in `unrolled(model)`. A block without heads has no heads
    group.

    Raises: UserError for an unknown kind, and units that the model cannot lose
      (`ImageModel.unprunable`).
    """
    if not isinstance(model, ImageModel):  # an argument may be any Flax module
        raise UserError(whole(model))
    reasons = model.unprunable()
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f'kind "{kind}" is unknown: {" or ".join(KINDS)}.')
        if kind in reasons:
            raise UserError(reasons[kind])
    model = unrolled(model)
    before = parameter_shapes(model)
    axes: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    paths = {block.path for block in model.blocks()}
    for kind in kinds:
        more = {block: n + 1 for block, n in unit_counts(model, kind).items()}
        after = parameter_shapes(model.with_units({kind: more}))
        for path, shape in before.items():
            for axis, (n, m) in enumerate(zip(shape, after[path], strict=True)):
                if n != m:
                    inside = (b for b in paths if path.startswith(f"{b}/"))
                    axes.setdefault((next(inside), kind), {})[path] = (axis, m - n)
    found = [
        Group(block.path, kind, units.count, units.place, axes[block.path, kind])
        for block in model.blocks()
        for kind, units in block.units.items()
        if kind in kinds
    ]
    return {group.name: group for group in found}


def unrolled(model: Any) -> Any:
    """The model with unstacked blocks, neither scanned nor rematerialised."""
    return model.clone(scan=False, remat=False)


def unit_counts(model: ImageModel, kind: str) -> dict[str, int]:
    """Number of heads or hidden units of each block that has some, by its path."""
    blocks = model.blocks()
    return {b.path: b.units[kind].count for b in blocks if kind in b.units}


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by path."""
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    return {path: tuple(leaf.shape) for path, leaf in by_path(params).items()}

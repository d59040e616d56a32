"""Prunable groups of a model: the heads and the hidden units of each block.

They are found without rules for each layer: a model with one more unit has parameters
that are longer along one axis, and that is the unit's axis.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.pruned import FIELDS
from vit_jax_tricks.param_names import by_path


KINDS = {"heads": "block_heads", "hidden": "block_hidden"}
_PROJECTIONS = {"heads": "attn/proj", "hidden": "mlp/fc2"}
# Norms over all heads or hidden units together: removing one changes all the others.
_NORMS = {"heads": "scale_attn_norm", "hidden": "scale_mlp_norm"}
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

    Raises: UserError for a family whose blocks cannot be unequal, blocks with parallel
      branches, and norms over all heads or hidden units.
    """
    if not all(hasattr(model, field) for field in FIELDS.values()):
        raise UserError(
            f"{type(model).__name__} cannot be pruned: its blocks must be equal; use "
            "ViT, DeiT, Swin, LV-ViT, T2T-ViT or ConViT."
        )
    if getattr(model, "parallel", 1) > 1:
        raise UserError(
            f"parallel={model.parallel}: parallel branches of a block cannot be pruned."
        )
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f'kind "{kind}" is unknown: {" or ".join(KINDS)}.')
        if getattr(model, _NORMS[kind], False):
            raise UserError(
                f"{_NORMS[kind]}=True normalises all {kind} together, so none can be "
                f"removed without changing the others; prune without {kind}."
            )
    model = unrolled(model)
    before = parameter_shapes(model)
    sizes = {kind: block_sizes(model, kind, before) for kind in kinds}
    found = {}
    for kind in kinds:
        more = {block: n + (n > 0) for block, n in sizes[kind].items()}
        after = parameter_shapes(resized(model, {kind: more}))
        axes: dict[str, dict[str, tuple[int, int]]] = {}
        for path, shape in before.items():
            for axis, (n, m) in enumerate(zip(shape, after[path], strict=True)):
                if n != m:
                    block = _BLOCK.match(path)
                    assert block is not None, path
                    axes.setdefault(block[0], {})[path] = (axis, m - n)
        for block, size in sizes[kind].items():
            if block in axes:
                place = f"{block}/{_PROJECTIONS[kind]}"
                group = Group(block, kind, size, place, axes[block])
                found[group.name] = group
    order = [f"{block}/{kind}" for block in _blocks(model) for kind in KINDS]
    return {name: found[name] for name in order if name in found}


_BLOCK = re.compile(r"(?:layers_\d+/)?blocks_\d+")


def unrolled(model: Any) -> Any:
    """The model with unstacked blocks, neither scanned nor rematerialised."""
    return model.clone(scan=False, remat=False)


def resized(model: Any, sizes: Mapping[str, Mapping[str, int]]) -> Any:
    """The model with other numbers of heads or hidden units, by kind and block.

    Raises: UserError if the model's fields do not allow it.
    """
    fields = {}
    for kind, counts in sizes.items():
        if hasattr(model, "depths"):
            stages = enumerate(model.depths)
            fields[KINDS[kind]] = tuple(
                tuple(counts[f"layers_{s}/blocks_{i}"] for i in range(depth))
                for s, depth in stages
            )
        else:
            fields[KINDS[kind]] = tuple(counts[block] for block in _blocks(model))
    new = model.clone(**fields)
    new.check()
    return new


def block_sizes(
    model: Any, kind: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Number of heads or hidden units of each block.

    0 for blocks without attention; 1, which is not read, for blocks without an MLP.
    """
    none = 0 if kind == "heads" else 1
    paths = {b: f"{b}/{_PROJECTIONS[kind]}/kernel" for b in _blocks(model)}
    return {b: shapes[path][0] if path in shapes else none for b, path in paths.items()}


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by path."""
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    return {path: tuple(leaf.shape) for path, leaf in by_path(params).items()}


def _blocks(model: Any) -> list[str]:
    if hasattr(model, "depths"):
        stages = enumerate(model.depths)
        return [f"layers_{s}/blocks_{i}" for s, n in stages for i in range(n)]
    depth = len(model.kinds) if hasattr(model, "kinds") else model.depth
    return [f"blocks_{i}" for i in range(depth)]

"""What pruning can remove: the heads and the hidden units of each block.

Found without rules for each layer: a model with one more of them has parameters that
are longer along one axis, and that is their axis.
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
from vit_jax_tricks.param_groups import path_name


KINDS = {"heads": "block_heads", "hidden": "block_hidden"}
_PROJECTIONS = {"heads": "attn/proj", "hidden": "mlp/fc2"}
# Norms over all heads or hidden units together: without some, all the others change.
_NORMS = {"heads": "scale_attn_norm", "hidden": "scale_mlp_norm"}
Plan = Mapping[str, Sequence[int]]  # what is kept of each group, by its name


@dataclasses.dataclass(frozen=True)
class Group:
    """The heads, or the hidden units, of one block.

    Attributes:
      block: its path, `blocks_3` or `layers_1/blocks_0`.
      kind: "heads" or "hidden".
      size: how many there are.
      place: the path of the linear layer that takes their outputs.
      axes: of each parameter that they have a part of, by path: the axis, and how many
        times they are listed along it (twice in a packed SwiGLU).
    """

    block: str
    kind: str
    size: int
    place: str
    axes: Mapping[str, tuple[int, int]]

    @property
    def name(self) -> str:
        """`blocks_3/heads`."""
        return f"{self.block}/{self.kind}"

    @property
    def layer(self) -> str:
        """The path of the attention layer or MLP that they are in."""
        return self.place.rpartition("/")[0]


def find_groups(model: Any, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Group]:
    """All groups of some kinds by name, in the order of the blocks.

    Parameters are named as those of `unrolled(model)`. A block without heads has no
    group of them.

    Raises: UserError for a family whose blocks cannot be unequal, blocks with parallel
    branches, and norms over all heads or hidden units.
    """
    if not all(hasattr(model, field) for field in FIELDS.values()):
        raise UserError(
            f"{type(model).__name__} cannot be pruned: its blocks have one size; ViT, "
            "DeiT, Swin, LV-ViT, T2T-ViT and ConViT can."
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
                f"{_NORMS[kind]}=True normalises all {kind} together, so that none can "
                f"be removed without changing the others; prune without {kind}."
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
    """The model with blocks apart, neither scanned nor recomputed."""
    return model.clone(scan=False, remat=False)


def resized(model: Any, sizes: Mapping[str, Mapping[str, int]]) -> Any:
    """The model with other numbers of heads or hidden units, by kind and block.

    Raises: UserError where the model's fields do not allow it.
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
    """How many heads or hidden units each block has.

    0 for blocks without attention, 1 for those without an MLP, which is not read.
    """
    none = 0 if kind == "heads" else 1
    paths = {b: f"{b}/{_PROJECTIONS[kind]}/kernel" for b in _blocks(model)}
    return {b: shapes[path][0] if path in shapes else none for b, path in paths.items()}


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by path."""
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _blocks(model: Any) -> list[str]:
    if hasattr(model, "depths"):
        stages = enumerate(model.depths)
        return [f"layers_{s}/blocks_{i}" for s, n in stages for i in range(n)]
    depth = len(model.kinds) if hasattr(model, "kinds") else model.depth
    return [f"blocks_{i}" for i in range(depth)]

"""Costs of heads and hidden units, counted from traced programs."""

from collections.abc import Mapping
from typing import Any

from vit_jax_tricks.compress.pruning.groups import (
    Group,
    parameter_shapes,
    unit_counts,
    unrolled,
)
from vit_jax_tricks.flops import count_flops, forward_shapes


def model_macs(model: Any) -> int:
    """Multiply-accumulates of the model for one image."""
    return count_flops(model.apply, *forward_shapes(model, 1)).macs


def unit_costs(model: Any, groups: Mapping[str, Group]) -> dict[str, int]:
    """MACs of one head or hidden unit of each group, for one image.

    This is the difference that one more of them makes. Blocks of the same stage whose
    parameters differ only in the pruned lengths are counted once.
    """
    model = unrolled(model)
    shapes = parameter_shapes(model)
    base = model_macs(model)
    known: dict[Any, int] = {}
    costs = {}
    for name, group in groups.items():
        key = _signature(group, groups, shapes)
        if key not in known:
            more = unit_counts(model, group.kind)
            more[group.block] += 1
            known[key] = model_macs(model.with_units({group.kind: more})) - base
        costs[name] = known[key]
    return costs


def _signature(
    group: Group, groups: Mapping[str, Group], shapes: Mapping[str, tuple[int, ...]]
) -> Any:
    """Kind, stage and parameter shapes of a block, without the lengths to be pruned."""
    lengths = {}
    for other in groups.values():
        if other.block == group.block:
            lengths |= {path: axis for path, (axis, _) in other.axes.items()}
    start = f"{group.block}/"
    block = []
    for path, shape in shapes.items():
        if path.startswith(start):
            axis = lengths.get(path)
            fixed = tuple(n for i, n in enumerate(shape) if i != axis)
            block.append((path.removeprefix(start), fixed))
    stage = group.block.rpartition("/")[0]
    return group.kind, stage, tuple(block)

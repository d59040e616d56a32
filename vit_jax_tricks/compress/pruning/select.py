"""Selects the heads and hidden units to keep, so that a model fits a budget."""

from collections.abc import Mapping

import numpy as np

from vit_jax_tricks.compress.pruning.checks import check_scores
from vit_jax_tricks.compress.pruning.groups import Group
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Float


def select(
    groups: Mapping[str, Group],
    scores: Mapping[str, Float[np.ndarray, "s"]],
    costs: Mapping[str, int],
    *,
    excess: int,
    relative: bool,
    min_heads: int = 1,
    min_hidden: int = 8,
    multiple: int = 8,
) -> dict[str, tuple[int, ...]]:
    """The kept indices of each group, ascending, after removing `excess` MACs.

    Units are removed in the order of importance per MAC, over all layers, heads and
    hidden units together: score / cost or, with `relative`, score / mean score of the
    group, which values each layer at its MACs. Hidden units are removed in lots that
    leave a `multiple`. Finally, units that still fit the budget are restored, last
    removed first.

    Args:
      groups: by name.
      scores: scores of each group, not negative.
      costs: MACs of one head or hidden unit of each group.
      excess: number of MACs to remove.
      relative: whether scores are comparable only within their group.
      min_heads, min_hidden: the minimum that every group keeps, if it has that many; at
        least 1 hidden unit.
      multiple: hidden units are kept in multiples of this.

    Raises: UserError for scores or costs of other groups, scores of another length,
      scores that are negative or not finite, a number below its minimum, and if
      removing everything allowed is not enough.
    """
    check_scores("select", groups, scores, costs)
    least = {"min_heads": (min_heads, 0), "min_hidden": (min_hidden, 0)}
    for name, (value, start) in (least | {"multiple": (multiple, 1)}).items():
        if value < start:
            raise UserError(f"select: {name}={value}; expected {start} or more.")
    lots = []
    orders: dict[str, list[int]] = {}
    for place, (name, group) in enumerate(groups.items()):
        values = np.asarray(scores[name], np.float64)
        mean = values.mean()
        if relative:
            values = values / mean if mean > 0 else np.ones_like(values)
        else:
            values = values / max(costs[name], 1)
        order = np.argsort(values, kind="stable").tolist()
        orders[name] = order
        lot = 1 if group.kind == "heads" else multiple
        least = min_heads if group.kind == "heads" else max(min_hidden, 1)
        start, end = 0, group.size % lot or lot
        while group.size - end >= least:
            worth = float(values[order[start:end]].mean())
            lots.append((worth, place, end, name, end - start))
            start, end = end, end + lot
    lots.sort()
    gone = dict.fromkeys(groups, 0)
    removed = []
    for _, _, _, name, number in lots:
        if excess <= 0:
            break
        gone[name] += number
        excess -= number * costs[name]
        removed.append((name, number))
    if excess > 0:
        saved = sum(number * costs[name] for name, number in removed)
        raise UserError(
            f"the budget is out of reach: {saved / 1e6:.1f} MMACs can be removed, but "
            f"{(saved + excess) / 1e6:.1f} must go; raise flops, or lower min_heads or "
            "min_hidden."
        )
    stuck = set()
    for name, number in reversed(removed):
        cost = number * costs[name]
        if name in stuck or excess + cost > 0:
            stuck.add(name)
            continue
        gone[name] -= number
        excess += cost
    return {n: tuple(sorted(order[gone[n] :])) for n, order in orders.items()}

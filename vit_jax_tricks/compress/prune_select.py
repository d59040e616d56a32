"""Which heads and hidden units stay, so that a model fits a budget."""

from collections.abc import Mapping

import numpy as np

from vit_jax_tricks.compress.prune_groups import Group
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
    """What is kept of each group, ascending, once `excess` MACs are removed.

    Removed in the order of importance per MAC over all layers, heads and hidden units
    together: score / cost, or with `relative` score / mean score of the group, which
    takes each layer to be worth its MACs. Hidden units go in lots that leave a
    `multiple`. At the end what still fits the budget is put back, last removed first.

    Args:
      groups: by name.
      scores: of each group, not negative.
      costs: MACs of one head or hidden unit of each group.
      excess: how many MACs have to go.
      relative: whether scores compare within their group alone.
      min_heads, min_hidden: what every group keeps, if it has as many; at least 1
        hidden unit.
      multiple: of hidden units.

    Raises: UserError where all that may go is not enough.
    """
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
            f"the budget is out of reach: {saved / 1e6:.1f} MMACs can be removed, and "
            f"{(saved + excess) / 1e6:.1f} have to; raise flops, or lower min_heads or "
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

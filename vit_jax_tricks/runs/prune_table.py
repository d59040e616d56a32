"""Table of the effect of pruning on each block."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vit_jax_tricks.compress.pruning.groups import parameter_shapes
from vit_jax_tricks.compress.pruning.pruned import Pruned


HEADER = ("block", "heads", "hidden", "MMACs", "parameters")


class Row(NamedTuple):
    """One block, or the whole model; each pair is (before, after).

    The `macs` of a block are those of its heads and hidden units.
    """

    block: str
    heads: tuple[int, int] | None
    hidden: tuple[int, int] | None
    macs: tuple[int, int]
    parameters: tuple[int, int]

    def cells(self) -> tuple[str, ...]:
        pairs = (self.heads, self.hidden, None, self.parameters)
        cells = ["" if p is None else _arrow(*(f"{n:,}" for n in p)) for p in pairs]
        cells[2] = _arrow(*(f"{n / 1e6:.2f}" for n in self.macs))
        return self.block, *cells


def rows(result: Pruned) -> list[Row]:
    """One row for each block, and one for the model."""
    sizes = [
        {path: math.prod(shape) for path, shape in parameter_shapes(model).items()}
        for model in (result.full_model, result.model)
    ]
    blocks = dict.fromkeys(group.block for group in result.groups.values())
    table = []
    for block in blocks:
        counts = {}
        macs = [0, 0]
        for name, group in result.groups.items():
            if group.block == block:
                counts[group.kind] = (group.size, len(result.plan[name]))
                for i, count in enumerate(counts[group.kind]):
                    macs[i] += count * result.costs[name]
        parameters = [
            sum(n for path, n in one.items() if path.startswith(f"{block}/"))
            for one in sizes
        ]
        table.append(
            Row(
                block,
                counts.get("heads"),
                counts.get("hidden"),
                (macs[0], macs[1]),
                (parameters[0], parameters[1]),
            )
        )
    before, after = (sum(one.values()) for one in sizes)
    macs = (result.full_macs, result.macs)
    heads = _total([row.heads for row in table])
    hidden = _total([row.hidden for row in table])
    return [*table, Row("model", heads, hidden, macs, (before, after))]


def _total(pairs: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    before, after = map(sum, zip(*known, strict=True))
    return before, after


def markdown(table: Sequence[Row]) -> str:
    """Formats the table as Markdown."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    lines += [row.cells() for row in table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"

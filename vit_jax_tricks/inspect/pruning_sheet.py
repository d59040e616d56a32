"""Sheet of the heads and hidden units that pruning kept in each block, as one PNG."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


if TYPE_CHECKING:
    from vit_jax_tricks.compress.pruning.pruned import Pruned


def write_sheet(path: Path, result: "Pruned") -> Path:
    """Writes the picture and returns its path.

    Left: a square for each head, darker for a higher score within its block, crossed
    out if removed. Right: the sorted scores of the hidden units relative to the
    largest, with a line between kept and removed units.
    """
    groups = list(result.groups.values())
    blocks = list(dict.fromkeys(group.block for group in groups))
    kinds = [k for k in ("heads", "hidden") if any(g.kind == k for g in groups)]
    height = max(2.0, 0.32 * len(blocks) + 1.0)
    size = (4.5 * len(kinds), height)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    row = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(row, kinds, strict=True):
        draw = _heads if kind == "heads" else _hidden
        for group in groups:
            if group.kind == kind:
                kept = np.isin(np.arange(group.size), result.plan[group.name])
                scores = result.scores[group.name]
                scores = scores / max(scores.max(), np.finfo(float).tiny)
                draw(axes, blocks.index(group.block), scores, kept)
        axes.set_yticks(range(len(blocks)), blocks, fontsize=7)
        axes.set_ylim(len(blocks) - 0.4, -0.6)
        own = [group for group in groups if group.kind == kind]
        stayed = sum(len(result.plan[group.name]) for group in own)
        total = sum(group.size for group in own)
        what = "heads" if kind == "heads" else "hidden units"
        axes.set_title(f"{stayed} of {total} {what} stayed", fontsize=9)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _heads(axes: Axes, y: int, scores: Any, kept: Any) -> None:
    x = np.arange(len(scores))
    colour: dict[str, Any] = {"c": scores, "cmap": "Blues", "vmin": -0.3, "vmax": 1}
    axes.scatter(x, np.full(len(x), y), s=90, marker="s", **colour)
    gone = x[~kept]
    axes.scatter(gone, np.full(len(gone), y), c="tab:red", s=40, marker="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("head")


def _hidden(axes: Axes, y: int, scores: Any, kept: Any) -> None:
    ranked = np.sort(scores)[::-1]
    share = np.linspace(0, 1, len(ranked))
    axes.fill_between(share, y + 0.4, y + 0.4 - 0.8 * ranked, color="tab:blue", lw=0)
    axes.plot([kept.mean()] * 2, [y + 0.4, y - 0.4], color="tab:red")
    axes.set_xlabel("share of the hidden units, by score")

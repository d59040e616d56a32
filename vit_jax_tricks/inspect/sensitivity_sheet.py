"""Sheet of the cost of each quantised place, as one PNG."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


if TYPE_CHECKING:
    from vit_jax_tricks.compress.quant.sensitivity import Cost


def write_sheet(path: Path, costs: Sequence["Cost"]) -> Path:
    """Writes the picture and returns its path.

    One row for each layer: the SQNR of the logits with only its weight or its input
    quantised, further left meaning more sensitive, and a line for quantising
    everything.
    """
    *places, whole = costs
    layers = sorted({cost.place.rpartition("/")[0] for cost in places}, key=_natural)
    height = max(2.5, 0.16 * len(layers) + 1.2)
    figure = Figure(figsize=(7, height), layout="constrained", dpi=120)
    axes = figure.subplots()
    for inputs, marker, name in ((False, "s", "weight"), (True, "o", "input")):
        own = [c for c in places if (c.place.rpartition("/")[2] == "input") == inputs]
        rows = [layers.index(cost.place.rpartition("/")[0]) for cost in own]
        axes.scatter([c.sqnr for c in own], rows, s=18, marker=marker, label=name)
    axes.axvline(whole.sqnr, color="0.5", linestyle="--", label="everything")
    axes.set_yticks(range(len(layers)), layers, fontsize=6)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel("SQNR of the logits, dB")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _natural(name: str) -> list[tuple[str, int]]:
    """Sort key that puts blocks_2 before blocks_10."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text, int(number or 0)) for text, number in parts]

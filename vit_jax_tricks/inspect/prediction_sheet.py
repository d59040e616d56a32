"""Pictures beside bars of their most probable classes, as one PNG."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vit_jax_tricks.typing import Array, UInt8


MOST = 30  # pictures on one sheet
LONGEST = 32  # letters of a class name
Row = tuple[str, UInt8[Array, "h w c"], list[tuple[str, float]]]


def write_sheet(path: Path, rows: Sequence[Row]) -> Path:
    """Writes (title, picture, [(class, probability), ...]) rows and returns the path.

    Probabilities are in 0..1, the largest first.
    """
    bars = max(len(ranked) for _, _, ranked in rows)
    height = max(1.6, 0.28 * bars + 0.8)
    figure = Figure(figsize=(7.5, height * len(rows)), layout="constrained", dpi=120)
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 2.4))
    for axes, (title, pixels, ranked) in zip(grid, rows, strict=True):
        _picture(axes[0], title, pixels)
        _bars(axes[1], ranked)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        FigureCanvasAgg(figure).print_png(str(path))
    return path


def _picture(axes: Axes, title: str, pixels: UInt8[Array, "h w c"]) -> None:
    grey = pixels.shape[2] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_title(_short(title), fontsize=9, parse_math=False)


def _bars(axes: Axes, ranked: list[tuple[str, float]]) -> None:
    places = range(len(ranked))
    values = [probability for _, probability in ranked]
    axes.barh(places, [1.0] * len(values), color="0.94", height=0.7)
    axes.barh(places, values, color="tab:blue", height=0.7)
    axes.set_xlim(0, 1.12)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_xticks([])
    names = [_short(name) for name, _ in ranked]
    axes.set_yticks(places, names, fontsize=9, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.1%}", va="center", fontsize=9)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

"""Sheet of pictures beside bars of their most probable classes, as one PNG."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vit_jax_tricks.inspect.lettering import lettering
from vit_jax_tricks.typing import Array, UInt8


MOST = 30  # pictures on one sheet
TEXT = 9  # font size in points
DPI = 120
SIZE = TEXT * DPI // 72  # pixels
LONGEST = 240  # most pixels of a class name
LONGEST_TITLE = 170  # most pixels of a title, the width of the picture
Row = tuple[str, UInt8[Array, "h w c"], list[tuple[str, float]]]


def write_sheet(path: Path, rows: Sequence[Row]) -> Path:
    """Writes (title, picture, [(class, probability), ...]) rows and returns the path.

    Probabilities are in 0..1, the largest first.
    """
    bars = max(len(ranked) for _, _, ranked in rows)
    height = max(1.6, 0.28 * bars + 0.8)
    figure = Figure(figsize=(7.5, height * len(rows)), layout="constrained", dpi=DPI)
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 2.4))
    words = [title for title, _, _ in rows]
    words += [name for _, _, ranked in rows for name, _ in ranked]
    letters = lettering(words)
    style = {"fontsize": TEXT, "fontfamily": letters.families, "parse_math": False}
    for axes, (title, pixels, ranked) in zip(grid, rows, strict=True):
        _picture(axes[0], pixels)
        axes[0].set_title(letters.shortened(title, LONGEST_TITLE, SIZE), **style)
        _bars(axes[1], [probability for _, probability in ranked])
        names = [letters.shortened(name, LONGEST, SIZE) for name, _ in ranked]
        axes[1].set_yticks(range(len(names)), names, **style)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _picture(axes: Axes, pixels: UInt8[Array, "h w c"]) -> None:
    grey = pixels.shape[2] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _bars(axes: Axes, values: Sequence[float]) -> None:
    places = range(len(values))
    axes.barh(places, [1.0] * len(values), color="0.94", height=0.7)
    axes.barh(places, values, color="tab:blue", height=0.7)
    axes.set_xlim(0, 1.12)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.1%}", va="center", fontsize=TEXT)

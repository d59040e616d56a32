"""Contact sheet: many small pictures with a caption under each, as one PNG."""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from vit_jax_tricks.inspect.lettering import lettering
from vit_jax_tricks.typing import UInt8


TEXT = 11  # font size in pixels
TEXT_HEIGHT = 14  # pixels from one line to the next
MOST_LINES = 3
GAP = 2  # pixels between pictures


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "..."]],
    captions: Sequence[str],
    path: str | os.PathLike,
    columns: int = 10,
    zoom: float = 2.0,
) -> pathlib.Path:
    """Writes the sheet and returns its path.

    Captions are wrapped below their pictures, and end in an ellipsis if they are too
    long. Grey pictures may have one channel or none. `zoom` enlarges with nearest
    neighbours and shrinks with area averages.

    Raises:
      ValueError: there are no pictures, or not one caption for each.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(
            f"contact_sheet got {len(images)} images and {len(captions)} captions; "
            "give at least one image and as many captions"
        )
    how = cv2.INTER_NEAREST if zoom >= 1 else cv2.INTER_AREA
    tiles = []
    for image in images:
        grey = image.ndim == 2 or image.shape[2] == 1
        rgb = np.repeat(image.reshape(*image.shape[:2], 1), 3, 2) if grey else image
        tiles.append(cv2.resize(rgb, None, fx=zoom, fy=zoom, interpolation=how))
    letters = lettering(captions)
    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles) + GAP
    texts = [letters.wrapped(c, width - GAP, TEXT, MOST_LINES) for c in captions]
    rows = range(0, len(tiles), columns)
    most = [max(1, *map(len, texts[row : row + columns])) for row in rows]
    below = [TEXT_HEIGHT * lines for lines in most]
    across = width * min(columns, len(tiles))
    sheet = PIL.Image.new("RGB", (across, height * len(rows) + sum(below)))
    draw = PIL.ImageDraw.Draw(sheet)
    for i, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        row = i // columns
        left, top = i % columns * width, row * height + sum(below[:row])
        sheet.paste(PIL.Image.fromarray(tile), (left, top))
        for number, line in enumerate(lines):
            place = (left + 1, top + height + number * TEXT_HEIGHT)
            letters.draw(draw, place, line, TEXT)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path

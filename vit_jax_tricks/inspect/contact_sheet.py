"""Many small pictures with a line of text under each, as one PNG."""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from vit_jax_tricks.typing import UInt8


TEXT_HEIGHT = 14


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "..."]],
    captions: Sequence[str],
    path: str | os.PathLike,
    columns: int = 10,
    zoom: float = 2.0,
) -> pathlib.Path:
    """Writes the sheet and returns its path; text is cut to the width of its picture.

    Grey pictures may have one channel or none. `zoom` scales with nearest neighbours
    upwards and area averages downwards.

    Raises:
      ValueError: There is no picture, or not one caption for each.
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
    height = max(tile.shape[0] for tile in tiles) + TEXT_HEIGHT
    width = max(tile.shape[1] for tile in tiles) + 2
    rows = -(-len(tiles) // columns)
    sheet = PIL.Image.new("RGB", (width * min(columns, len(tiles)), height * rows))
    draw = PIL.ImageDraw.Draw(sheet)
    for i, (tile, text) in enumerate(zip(tiles, captions, strict=True)):
        left, top = i % columns * width, i // columns * height
        sheet.paste(PIL.Image.fromarray(tile), (left, top))
        while text and draw.textlength(text) > width:
            text = text[:-1]
        draw.text((left + 1, top + height - TEXT_HEIGHT), text, fill="white")
    path = pathlib.Path(path)
    sheet.save(path, "PNG")
    return path

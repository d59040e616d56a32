"""Sheet of pictures overlaid with the classes that a label pack gives their patches."""

import colorsys
import os
import pathlib
from collections.abc import Sequence

import cv2
import jax
import numpy as np

from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.code import decode
from vit_jax_tricks.inspect.contact_sheet import contact_sheet
from vit_jax_tricks.losses.token_label_targets import dense_scores
from vit_jax_tricks.typing import Float, Int, UInt8


TILE = 150  # approximate side of a tile, in pixels
GOLDEN = 0.618034  # hue step from one class to the next, as a fraction of the circle


def write_sheet(
    path: str | os.PathLike,
    pack: LabelPack,
    index: Int[np.ndarray, "b"],
    images: Sequence[UInt8[np.ndarray, "h w c"]],
    labels: Sequence[int],
    columns: int = 4,
) -> pathlib.Path:
    """Writes each picture beside a copy overlaid with the top class of each cell.

    Each class has a colour, which is more opaque the more probable the class is. The
    caption names the label and the most frequent classes.
    """
    rows = decode(pack.rows(index))
    k = pack.num_classes
    scores = dense_scores(rows["token_scores"], rows["token_classes"], num_classes=k)
    probability = np.asarray(jax.nn.softmax(scores, axis=-1).max(-1))
    first = np.asarray(rows["token_classes"][..., 0])
    tiles, captions = [], []
    for image, label, ids, p in zip(images, labels, first, probability, strict=True):
        zoom = TILE / max(image.shape[:2])
        how = cv2.INTER_NEAREST if zoom >= 1 else cv2.INTER_AREA
        large = cv2.resize(
            np.repeat(image, 3 // image.shape[2], 2),
            None,
            fx=zoom,
            fy=zoom,
            interpolation=how,
        )
        tiles.append(np.hstack([large, overlaid(large, ids, p)]))
        captions.append(_words(pack.spec.class_names, int(label), ids))
    return contact_sheet(tiles, captions, path, columns=columns, zoom=1.0)


def overlaid(
    image: UInt8[np.ndarray, "h w 3"],
    classes: Int[np.ndarray, "p q"],
    probability: Float[np.ndarray, "p q"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in grey, overlaid with the colours of its cells' classes."""
    h, w, _ = image.shape
    colours = np.array([colour(int(k)) for k in classes.flat])
    cells = (255 * colours.reshape(*classes.shape, 3)).astype(np.uint8)
    cells = cv2.resize(cells, (w, h), interpolation=cv2.INTER_NEAREST)
    share = cv2.resize(
        0.75 * probability.astype(np.float32), (w, h), interpolation=cv2.INTER_NEAREST
    )[..., None]
    grey = image.mean(-1, keepdims=True)
    return (grey * (1 - share) + cells * share).astype(np.uint8)


def colour(k: int) -> tuple[float, float, float]:
    """Colour of a class in [0, 1]; consecutive classes have distant colours."""
    return colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.9, 1.0)


def _words(names: Sequence[str], label: int, classes: Int[np.ndarray, "p q"]) -> str:
    ids, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    shares = (f"{counts[i] / classes.size:.0%} {names[int(ids[i])]}" for i in order)
    return f"{names[label]}: {', '.join(shares)}"

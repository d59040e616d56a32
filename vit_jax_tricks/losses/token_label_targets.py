"""Converts stored label maps into the labels of a crop and of its tokens."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number, prepared
from vit_jax_tricks.losses.roi_align import roi_align
from vit_jax_tricks.typing import Array, Float, Int


@checked
def dense_scores(
    scores: Float[Array, "b p q t"], classes: Int[Array, "b p q t"], *, num_classes: int
) -> Float[Array, "b p q k"]:
    """Scatters the scores of each cell's t best classes into k classes, 0 elsewhere.

    Class ids outside 0..k-1 are dropped.
    """
    (scores,) = prepared(None, scores)
    shape = (*scores.shape[:-1], num_classes)
    inside = (classes >= 0) & (classes < num_classes)
    at = jnp.where(inside, classes, num_classes)
    zeros = jnp.zeros(shape, scores.dtype)
    rows = jnp.indices(classes.shape, sparse=True)[:-1]
    return zeros.at[(*rows, at)].set(scores, mode="drop")


@checked
def token_label_targets(
    *,
    scores: Float[Array, "b p q t"],
    classes: Int[Array, "b p q t"],
    boxes: Float[Array, "b 4"],
    num_classes: int,
    size: tuple[int, int],
    smoothing: Number = 0.0,
    as_released: bool = False,
) -> tuple[Float[Array, "b k"], Float[Array, "b h w k"]]:
    """Soft labels of a crop: one for the whole, and one for each of its h x w tokens.

    The score map is pooled over the box (`roi_align`), once to one cell and once to the
    token grid. A softmax over the classes follows; classes that were not stored have
    score 0. Each probability t then becomes t (1 - s + s/k) + s/k, so a label sums to 1
    + s/k. `augment.mix_with` mixes both, passed as a dict, together with the images.

    Args:
      scores: the teacher's logits for its t best classes, over the whole image.
      classes: the ids of these classes.
      boxes: the crop (top, left, height, width), as fractions of the image's sides.
      num_classes: k.
      size: rows and columns of tokens.
      smoothing: s.
      as_released: swaps rows and columns of the box, as the released LV-ViT training
        code does; use it only to reproduce its numbers.

    Raises: UserError for smoothing outside [0, 1).
    Equivalent to TokenLabeling's get_labelmaps_with_coords (tested, as released).
    Source: Jiang et al., 2021, arXiv:2104.10858.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing={smoothing}: expected 0 <= smoothing < 1.")
    maps = dense_scores(scores, classes, num_classes=num_classes)
    (boxes,) = prepared(None, boxes)
    (top, left), (height, width) = boxes[:, :2].T, boxes[:, 2:].T
    edges = [top, left, top + height, left + width]
    rows, columns = maps.shape[1:3]
    if as_released:
        edges, rows = [left, top, left + width, top + height], columns
    sides = jnp.asarray([[rows, columns, rows, columns]], maps.dtype)
    cells = jnp.stack(edges, axis=1).astype(maps.dtype) * sides - 0.5
    off = smoothing / num_classes

    def label(size: tuple[int, int]) -> jax.Array:
        pooled = roi_align(maps, cells, size=size)
        return jax.nn.softmax(pooled, axis=-1) * (1 - smoothing + off) + off

    return label((1, 1))[:, 0, 0], label(size)

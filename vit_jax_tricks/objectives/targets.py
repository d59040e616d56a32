"""Converts a teacher's labels into targets for cropped and mixed images."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.geometry import Geometry, apply_to_dense
from vit_jax_tricks.losses import dense_scores, token_label_targets
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.typing import Array, Float


Batch = dict[str, Array]
Stored = Callable[[Any, Batch], Batch]  # (geometry, batch) -> the pack's labels
Teach = Callable[[Any, Array], Batch]  # (teachers' variables, images) -> their outputs


class Target(NamedTuple):
    """What a term can learn from besides the labels; a teacher in the step gives all.

    Attributes:
      packed: a label pack gives it too.
      gridded: it has the grid of the model's tokens, and thus one image size.
    """

    packed: bool = False
    gridded: bool = False


TARGETS = {
    "class_labels": Target(packed=True),
    "teacher_logits": Target(packed=True),
    "teacher_tokens": Target(gridded=True),
    "token_labels": Target(packed=True, gridded=True),
}


def stored_labels(
    batch: Mapping[str, Array],
    geometry: Geometry,
    *,
    num_classes: int,
    grid: tuple[int, int],
    smoothing: Number = 0.0,
    as_released: bool = False,
) -> dict[str, Array]:
    """Labels from a label pack for images that are cropped and warped, not yet mixed.

    The score map is pooled over the crop (`token_label_targets`). The token labels are
    then flipped and warped like the image; tokens from outside the image get a uniform
    label.

    Args:
      batch: `token_scores`, `token_classes` [b, p, q, t] over the whole source image,
        `class_scores`, `class_classes` [b, t] for that image, and `box` [b, 4]: the
        part of it that `geometry` starts from, as (top, left, height, width) in
        fractions of its sides.
      geometry: the moves of the images on the device.
      num_classes: k.
      grid: rows and columns of tokens.
      smoothing, as_released: as in `token_label_targets`.

    Returns:
      class_labels [b, k] and token_labels [b, rows, columns, k] of the crop, and
        teacher_labels [b, k] of the whole source image.
    """
    class_labels, tokens = token_label_targets(
        scores=batch["token_scores"],
        classes=batch["token_classes"],
        boxes=crop_boxes(batch["box"], geometry),
        num_classes=num_classes,
        size=grid,
        smoothing=smoothing,
        as_released=as_released,
    )
    off = smoothing / num_classes
    tokens = apply_to_dense(
        geometry.uncropped(), tokens, size=grid, fill=(1 + off) / num_classes
    )
    rows = [batch[name][:, None, None] for name in ("class_scores", "class_classes")]
    whole = dense_scores(*rows, num_classes=num_classes)[:, 0, 0]
    return {
        "class_labels": class_labels,
        "token_labels": tokens,
        "teacher_labels": jax.nn.softmax(whole, axis=-1),
    }


def crop_boxes(outer: Float[Array, "b 4"], geometry: Geometry) -> Float[Array, "b 4"]:
    """The part of the source image that each image shows, before flip and warp.

    Args:
      outer: (top, left, height, width) of the region that `geometry` starts from, as
        fractions of the source image's sides.
      geometry: the moves of the image.

    Returns:
      (top, left, height, width), as fractions of the source image's sides.

    Raises:
      UserError: the moves of AugMix.
    """
    geometry.check()
    outer = jnp.asarray(outer)
    box, resized, offset = (
        part.astype(outer.dtype)
        for part in (geometry.box, geometry.resized, geometry.offset)
    )
    shares = []
    for axis in (0, 1):
        pixel = box[:, 2 + axis] / resized[:, axis]
        first = box[:, axis] + offset[:, axis] * pixel
        side = outer[:, 2 + axis] / geometry.source[axis]
        shares.append(
            (outer[:, axis] + first * side, geometry.size[axis] * pixel * side)
        )
    (top, height), (left, width) = shares
    return jnp.stack([top, left, height, width], axis=1)


def as_targets(labels: Mapping[str, Array]) -> dict[str, Array]:
    """Renames mixed labels to the terms' names; teacher probabilities become log p.

    Tokens are flattened to [b, n, k]. The images and the true labels are dropped.

    With a temperature tau, log p gives softmax(logits / tau) again for unmixed images.
    """
    out = {k: v for k, v in labels.items() if k not in ("image", "label")}
    if "token_labels" in out:
        b, *_, k = out["token_labels"].shape
        out["token_labels"] = out["token_labels"].reshape(b, -1, k)
    if "teacher_labels" in out:
        mixed = out.pop("teacher_labels")
        tiny = jnp.finfo(mixed.dtype).tiny
        out["teacher_logits"] = jnp.log(jnp.maximum(mixed, tiny))
    return out


def dense_labels(
    logits: Float[Array, "b p q k"],
    *,
    grid: tuple[int, int],
    smoothing: Number = 0.0,
) -> Float[Array, "b n k"]:
    """Resizes a teacher's token logits to another grid and takes their softmax.

    As in `token_label_targets`, each label t becomes t (1 - s + s/k) + s/k.
    """
    b, *size, k = logits.shape
    if tuple(size) != grid:
        logits = jax.image.resize(logits, (b, *grid, k), "linear")
    off = smoothing / k
    labels = jax.nn.softmax(logits.reshape(b, -1, k), axis=-1)
    return labels * (1 - smoothing + off) + off

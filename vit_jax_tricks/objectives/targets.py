"""What a teacher's labels become as the images of a batch are cropped and mixed."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.geometry import (
    Geometry,
    apply_to_dense,
    identity_geometry,
)
from vit_jax_tricks.losses import dense_scores, token_label_targets
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.typing import Array, Float


def stored_labels(
    batch: Mapping[str, Array],
    geometry: Geometry,
    *,
    num_classes: int,
    grid: tuple[int, int],
    smoothing: Number = 0.0,
    as_released: bool = False,
) -> dict[str, Array]:
    """Labels of a pack for images that were cropped and warped, before they are mixed.

    The map of scores is pooled over the crop (`token_label_targets`); the tokens are
    then mirrored and warped as the image, those from outside of it being uniform.

    Args:
      batch: `token_scores`, `token_classes` [b, p, q, t] over the whole picture,
        `class_scores`, `class_classes` [b, t] of the picture, and `box` [b, 4], the
        part of the picture that `geometry` starts from, (top, left, height, width) as
        shares of its sides.
      geometry: of the images on the device.
      num_classes: k.
      grid: rows and columns of tokens.
      smoothing, as_released: as in `token_label_targets`.

    Returns:
      class_labels [b, k] and token_labels [b, rows, columns, k] of the crop,
      teacher_labels [b, k] of the whole picture.
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
    moves = identity_geometry(len(tokens), geometry.size).replace(
        flip=geometry.flip, affine=geometry.affine
    )
    tokens = apply_to_dense(moves, tokens, size=grid, fill=(1 + off) / num_classes)
    rows = [batch[name][:, None, None] for name in ("class_scores", "class_classes")]
    whole = dense_scores(*rows, num_classes=num_classes)[:, 0, 0]
    return {
        "class_labels": class_labels,
        "token_labels": tokens,
        "teacher_labels": jax.nn.softmax(whole, axis=-1),
    }


def crop_boxes(outer: Float[Array, "b 4"], geometry: Geometry) -> Float[Array, "b 4"]:
    """Which part of the picture an image shows before it is mirrored and warped.

    Args:
      outer: (top, left, height, width) that the source of `geometry` is, as shares of
        the picture's sides.
      geometry: of the image.
    """
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
    """Mixed labels under the names that terms know: tokens in a row, log p as logits.

    The images and the true labels are left out.

    Softened by tau, log p gives softmax(logits / tau) again, for images not mixed.
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
    """A teacher's token logits as labels of another grid: resized, then softmax.

    As in `token_label_targets`, each label t becomes t (1 - s + s/k) + s/k.
    """
    b, *size, k = logits.shape
    if tuple(size) != grid:
        logits = jax.image.resize(logits, (b, *grid, k), "linear")
    off = smoothing / k
    labels = jax.nn.softmax(logits.reshape(b, -1, k), axis=-1)
    return labels * (1 - smoothing + off) + off

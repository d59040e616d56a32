"""The geometry of an augmented image: where its pixels come from, so labels can follow.

Positions are (y, x) in pixels from the top left corner; the centre of the first pixel
is (1/2, 1/2).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax_tricks.augment.warp import Fill, Interpolation, check_whole, sample
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Bool, Float, Int, Num


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Geometry:
    """The moves of a batch of images, in the order in which they are applied.

    Attributes:
      box: int32 [b, 4], the (top, left, height, width) cut out of the source.
      resized: int32 [b, 2], the (height, width) that the box is resized to.
      offset: int32 [b, 2], the (y, x) in the resized box where the image starts; beyond
        its edges the box is mirrored.
      flip: bool [b], whether the image is then flipped left-right.
      affine: float [b, 6], from the warped image to this one, as in `affine_warp`.
      cut: int32 [b, 4], the CutMix box (y0, y1, x0, x1) that shows image b-1-i.
      source: (height, width) of the images before augmentation.
      size: (height, width) of the images after augmentation.
      overlaid: whether an image overlays differently moved copies of its source, as
        AugMix does; labels cannot follow then.
    """

    array_fields: ClassVar[dict[str, Any]] = {
        "box": Int[Array, "b 4"],
        "resized": Int[Array, "b 2"],
        "offset": Int[Array, "b 2"],
        "flip": Bool[Array, "b"],
        "affine": Float[Array, "b 6"],
        "cut": Int[Array, "b 4"],
    }
    box: Any
    resized: Any
    offset: Any
    flip: Any
    affine: Any
    cut: Any
    source: tuple[int, int] = dataclasses.field(metadata={"static": True})
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    overlaid: bool = dataclasses.field(default=False, metadata={"static": True})

    def replace(self, **changes: Any) -> "Geometry":
        """A copy with other draws, such as `replace(flip=random_flips(...))`."""
        return dataclasses.replace(self, **changes)

    def flipped(self, flips: Bool[Array, "b"]) -> "Geometry":
        """These moves, and then a left-right flip of the images in `flips`."""
        a, b, c, d, e, f = (self.affine[:, i] for i in range(6))
        width = self.size[1]
        mirrored = jnp.stack([a, -b, width - a * width - c, -d, e, f + d * width], 1)
        affine = jnp.where(flips[:, None], mirrored, self.affine)
        return self.replace(flip=self.flip ^ flips, affine=affine)

    def warped(self, matrix: Float[Array, "b 6"]) -> "Geometry":
        """These moves, and then a warp, as in `affine_warp`.

        Warps are composed into one. A position that the first brings in from outside
        the image is then not marked as unknown.
        """

        def square(matrix: Array) -> Array:
            rows = matrix.reshape(-1, 2, 3)
            last = jnp.array([0, 0, 1], matrix.dtype)
            last = jnp.broadcast_to(last, (len(rows), 1, 3))
            return jnp.concatenate([rows, last], axis=1)

        first, second = square(self.affine), square(matrix.astype(self.affine.dtype))
        product = jnp.matmul(first, second, precision="highest")
        return self.replace(affine=product[:, :2].reshape(-1, 6))

    def uncropped(self) -> "Geometry":
        """The moves after the crop, of which the source is the cropped image."""
        whole = identity_geometry(len(self.flip), self.size)
        return whole.replace(
            flip=self.flip, affine=self.affine, cut=self.cut, overlaid=self.overlaid
        )

    def check(self) -> None:
        """Raises UserError if labels cannot follow these moves."""
        if self.overlaid:
            raise UserError(
                "token labels cannot follow AugMix, which overlays differently warped "
                "copies of an image; use another config.augment.auto_augment, such as "
                "rand-m9-mstd0.5-inc1."
            )


def identity_geometry(
    batch: int, source: tuple[int, int], size: tuple[int, int] | None = None
) -> Geometry:
    """Whole images, resized to `size` and otherwise unchanged."""
    size = source if size is None else size

    def rows(*values: int, dtype: Any = jnp.int32) -> jax.Array:
        return jnp.broadcast_to(jnp.array(values, dtype), (batch, len(values)))

    return Geometry(
        box=rows(0, 0, *source),
        resized=rows(*size),
        offset=rows(0, 0),
        flip=jnp.zeros(batch, bool),
        affine=rows(1, 0, 0, 0, 1, 0, dtype=jnp.result_type(float)),
        cut=rows(0, 0, 0, 0),
        source=source,
        size=size,
    )


def source_positions(
    geometry: Geometry, size: tuple[int, int]
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Source positions y and x of a grid over the image, and whether each exists.

    Cells that a warp brought in from outside have no source position. CutMix is
    ignored.
    """
    geometry.check()
    a, b, c, d, e, f = (geometry.affine[:, i, None, None] for i in range(6))
    height, width = geometry.size
    x = (jnp.arange(size[1], dtype=a.dtype) + 0.5)[None, None] * (width / size[1])
    y = (jnp.arange(size[0], dtype=a.dtype) + 0.5)[None, :, None] * (height / size[0])
    x, y = a * x + b * y + c, d * x + e * y + f
    known = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x = jnp.where(geometry.flip[:, None, None], width - x, x)

    def unresized(place: Array, axis: int) -> jax.Array:
        start, length, resized, offset = _along(geometry, axis, place.dtype)
        place = place + offset
        place = jnp.where(place < 0, 1 - place, place)
        place = jnp.where(place >= resized, 2 * resized - 1 - place, place)
        return start + place * length / resized

    return unresized(y, 0), unresized(x, 1), known


def _along(geometry: Geometry, axis: int, dtype: DTypeLike) -> list[jax.Array]:
    """Start and length of the box, its resized length and offset, along one axis."""
    values = (
        geometry.box[:, axis],
        geometry.box[:, 2 + axis],
        geometry.resized[:, axis],
        geometry.offset[:, axis],
    )
    return [value.astype(dtype)[:, None, None] for value in values]


@checked
def apply_to_dense(
    geometry: Geometry,
    maps: Num[Array, "b p q k"] | Bool[Array, "b p q k"],
    *,
    size: tuple[int, int] | None = None,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
) -> Num[Array, "b h w k"]:
    """Moves label maps or masks over the source images the way the images moved.

    Each output cell reads the maps at a single position; a much coarser output is not
    averaged.

    Args:
      geometry: the moves of the images.
      maps: cover the source images, at any resolution; class ids, of any number type,
        need `interpolation="nearest"`.
      size: (h, w) of the output, which covers the new images; their own size by
        default.
      fill: value of cells that show nothing of the source.

    Raises:
      UserError: class ids without `interpolation="nearest"`, or the moves of AugMix.
    """
    check_whole("apply_to_dense: maps", maps, interpolation)
    size = geometry.size if size is None else size
    y, x, known = source_positions(geometry, size)
    y = jnp.where(known, y * (maps.shape[1] / geometry.source[0]), -1)
    x = jnp.where(known, x * (maps.shape[2] / geometry.source[1]), -1)
    out = sample(maps, y, x, fill=fill, interpolation=interpolation)
    return jnp.where(_cut_out(geometry, size)[..., None], out[::-1], out)


def _cut_out(geometry: Geometry, size: tuple[int, int]) -> Bool[Array, "b h w"]:
    """The cells whose centre CutMix covers."""
    y0, y1, x0, x1 = (geometry.cut[:, i, None, None] for i in range(4))
    y = jnp.arange(size[0], dtype=jnp.int32)[None, :, None]
    x = jnp.arange(size[1], dtype=jnp.int32)[None, None]
    y, x = (2 * y + 1) * geometry.size[0], (2 * x + 1) * geometry.size[1]
    rows = (y >= 2 * size[0] * y0) & (y < 2 * size[0] * y1)
    return rows & (x >= 2 * size[1] * x0) & (x < 2 * size[1] * x1)


@checked
def apply_to_boxes(
    geometry: Geometry, boxes: Float[Array, "b m 4"]
) -> Float[Array, "b m 4"]:
    """Moves boxes (top, left, bottom, right), in pixels, from the source to the image.

    Each becomes the upright bounding box of its four moved corners, clipped to the
    image; its area is 0 if nothing of it is left. Mirrored borders and CutMix add no
    boxes.

    Raises: UserError for the moves of AugMix.
    """
    geometry.check()
    y, x = boxes[..., jnp.array([0, 0, 2, 2])], boxes[..., jnp.array([1, 3, 1, 3])]

    def moved(place: Array, axis: int) -> jax.Array:
        start, length, resized, offset = _along(geometry, axis, place.dtype)
        return (jnp.asarray(place) - start) * resized / length - offset

    height, width = geometry.size
    y, x = moved(y, 0), moved(x, 1)
    x = jnp.where(geometry.flip[:, None, None], width - x, x)
    affine = geometry.affine.astype(boxes.dtype)
    a, b, c, d, e, f = (affine[:, i, None, None] for i in range(6))
    y, x = y - f, x - c
    area = a * e - b * d
    y, x = (a * y - d * x) / area, (e * x - b * y) / area
    y, x = jnp.clip(y, 0, height), jnp.clip(x, 0, width)
    return jnp.stack([y.min(-1), x.min(-1), y.max(-1), x.max(-1)], axis=-1)

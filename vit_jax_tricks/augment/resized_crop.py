"""Random and central crops, resized, with a separate box for each image.

Every function returns the new images and the `Geometry` that produced them.
"""

import math

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.geometry import Geometry, identity_geometry
from vit_jax_tricks.augment.resample import crop_and_resize
from vit_jax_tricks.augment.warp import INTERPOLATIONS, Interpolation
from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.random import example_keys, fold_in_str, uniform_below
from vit_jax_tricks.typing import Array, Int, Integer, Num, Pixels, PRNGKeyArray


Cropped = tuple[Num[Array, "b h2 w2 c"], Geometry]
ATTEMPTS = 10


@checked
def random_resized_box(
    key: PRNGKeyArray,
    source: tuple[int, int] | Int[Array, "2"],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Draws a crop box (top, left, height, width) in an image of `source` (h, w).

    Of ten attempts with area ~ U(scale) h w and w/h = exp(U(log ratio)), the first that
    fits is placed uniformly; if none fits, the result is the central crop with the
    nearest allowed ratio. Sides are rounded half to even. Equal in distribution to
    torchvision's RandomResizedCrop.get_params (tested).
    """
    height, width = jnp.asarray(source, jnp.int32)
    # A single draw of all numbers compiles far faster than separate draws.
    areas, ratios, place = jnp.split(
        jax.random.uniform(key, (2 * ATTEMPTS + 2,)), [ATTEMPTS, 2 * ATTEMPTS]
    )
    pixels = (height * width).astype(areas.dtype)
    area = (scale[0] + areas * (scale[1] - scale[0])) * pixels
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + ratios * (high - low))

    def whole(side: jax.Array) -> jax.Array:
        return jnp.round(side).astype(jnp.int32)

    widths, heights = whole(jnp.sqrt(area * aspect)), whole(jnp.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    central = jnp.stack(
        [
            jnp.minimum(height, whole(width.astype(area.dtype) / ratio[0])),
            jnp.minimum(width, whole(height.astype(area.dtype) * ratio[1])),
        ]
    )
    drawn = jnp.stack([heights[first], widths[first]])
    sides = jnp.where(fits[first], drawn, central)
    free = jnp.stack([height, width]) - sides
    start = jnp.where(fits[first], uniform_below(place, free + 1), free // 2)
    return jnp.concatenate([start, sides])


@checked
def random_resized_crop(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bicubic",
) -> Cropped:
    """Cuts out a `random_resized_box` of each image and resizes it to `size`.

    `interpolation="random"` draws bilinear or bicubic for each image, as timm does.
    Each image's draw depends only on (key, its index).

    Raises: UserError for a scale or ratio that is not a range of positive numbers.
    Source: Szegedy et al., 2014, arXiv:1409.4842; as in torchvision and timm.
    """
    geometry = draw_random_resized(
        key, index, _sides(images), size=size, scale=scale, ratio=ratio
    )
    kind = draw_interpolation(key, index, interpolation)
    return cut_whole(images, geometry, kind), geometry


def draw_random_resized(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    source: tuple[int, int],
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Geometry:
    """The geometry of `random_resized_crop`, for images of `source` (h, w)."""
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high:
            raise UserError(f"{name}=({low}, {high}): expected 0 < low <= high.")
    geometry = identity_geometry(len(index), source, size)
    keys = example_keys(fold_in_str(key, "box"), index)
    box = jax.vmap(lambda k: random_resized_box(k, source, scale=scale, ratio=ratio))
    return geometry.replace(box=box(keys))


def draw_interpolation(
    key: PRNGKeyArray, index: Integer[Array, "b"], interpolation: Interpolation
) -> Interpolation:
    """The interpolation itself or, for "random", bilinear or bicubic for each image."""
    if not (isinstance(interpolation, str) and interpolation == "random"):
        return interpolation
    keys = example_keys(fold_in_str(key, "interpolation"), index)
    options = [INTERPOLATIONS.index(name) for name in ("bilinear", "bicubic")]
    return jax.vmap(lambda k: jax.random.choice(k, jnp.array(options)))(keys)


def _sides(images: Num[Array, "b h w c"]) -> tuple[int, int]:
    return images.shape[1], images.shape[2]


def _resized_whole(source: tuple[int, int], short: int) -> tuple[int, int]:
    """Scales the short side to `short` and truncates the long side to an integer."""
    h, w = source
    return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)


def _central(
    batch: int, source: tuple[int, int], size: int, crop_pct: float
) -> Geometry:
    if not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct={crop_pct}: expected 0 < crop_pct <= 1.")
    resized = _resized_whole(source, int(size / crop_pct))
    start = [round((side - size) / 2) for side in resized]
    return _part(source, resized, size, jnp.array([start] * batch, jnp.int32))


def _part(
    source: tuple[int, int],
    resized: tuple[int, int],
    size: int,
    offset: Int[Array, "b 2"],
) -> Geometry:
    """A square part of the whole, resized image."""
    geometry = identity_geometry(len(offset), source, resized)
    return geometry.replace(offset=offset, size=(size, size))


def cut_whole(
    images: Num[Array, "b h w c"], geometry: Geometry, interpolation: Interpolation
) -> Num[Array, "b h2 w2 c"]:
    """The images of a geometry whose boxes fill the new image."""
    return crop_and_resize(
        images, geometry.box, size=geometry.size, interpolation=interpolation
    )


def cut_part(
    images: Num[Array, "b h w c"], geometry: Geometry, interpolation: Interpolation
) -> Num[Array, "b h2 w2 c"]:
    """The images of a geometry whose resized boxes may be larger than the new image."""
    return crop_and_resize(
        images,
        geometry.box,
        size=geometry.size,
        resized=geometry.resized,
        offset=geometry.offset,
        least=geometry.size,
        interpolation=interpolation,
    )


@checked
def resize_center_crop(
    images: Pixels[Array, "b h w c"],
    *,
    size: int,
    crop_pct: float = 0.875,
    interpolation: Interpolation = "bicubic",
) -> Cropped:
    """Resizes the short side to floor(size / crop_pct), then crops the central square.

    Raises: UserError for a `crop_pct` outside 0..1.
    Equivalent to torchvision's Resize and CenterCrop on Pillow images (tested).
    """
    geometry = _central(len(images), _sides(images), size, crop_pct)
    return cut_part(images, geometry, interpolation), geometry


@checked
def random_or_center_crop(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    size: int,
    prob: float = 0.5,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    crop_pct: float = 0.875,
    interpolation: Interpolation = "bicubic",
) -> Cropped:
    """`random_resized_crop` with probability `prob`, otherwise `resize_center_crop`.

    Either way there is a single resampling, so the choice costs nothing. Each image's
    draw depends only on (key, its index).

    Raises: as those two functions.
    """
    geometry = draw_random_or_center(
        key,
        index,
        _sides(images),
        size=size,
        prob=prob,
        scale=scale,
        ratio=ratio,
        crop_pct=crop_pct,
    )
    kind = draw_interpolation(key, index, interpolation)
    return cut_part(images, geometry, kind), geometry


def draw_random_or_center(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    source: tuple[int, int],
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    prob: float = 0.5,
    crop_pct: float = 0.875,
) -> Geometry:
    """The geometry of `random_or_center_crop`, for images of `source` (h, w)."""
    drawn = draw_random_resized(
        key, index, source, size=(size, size), scale=scale, ratio=ratio
    )
    keys = example_keys(fold_in_str(key, "choice"), index)
    chosen = jax.vmap(lambda k: jax.random.bernoulli(k, prob))(keys)

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, drawn, _central(len(index), source, size, crop_pct))


@checked
def simple_random_crop(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    size: int,
    pad: int = 4,
    interpolation: Interpolation = "bicubic",
) -> Cropped:
    """Resizes the short side to `size`, pads by `pad` mirrored pixels, crops at random.

    Each image's draw depends only on (key, its index).

    Raises: UserError for a `pad` that is negative or too wide to mirror.
    Source: Touvron et al., 2022 (DeiT III), arXiv:2204.07118, section 4, "simple random
    crop": Resize and RandomCrop(size, padding=4, padding_mode="reflect").
    """
    geometry = draw_simple(key, index, _sides(images), size=size, pad=pad)
    kind = draw_interpolation(key, index, interpolation)
    return cut_part(images, geometry, kind), geometry


def draw_simple(
    key: PRNGKeyArray,
    index: Integer[Array, "b"],
    source: tuple[int, int],
    *,
    size: int,
    pad: int = 4,
) -> Geometry:
    """The geometry of `simple_random_crop`, for images of `source` (h, w)."""
    if not 0 <= pad < size:
        raise UserError(f"pad={pad}: expected 0 to {size - 1}, below the size.")
    resized = _resized_whole(source, size)
    free = jnp.array(resized, jnp.int32) + 2 * pad - size

    def place(k: PRNGKeyArray) -> jax.Array:
        return uniform_below(jax.random.uniform(k, (2,)), free + 1) - pad

    keys = example_keys(fold_in_str(key, "place"), index)
    return _part(source, resized, size, jax.vmap(place)(keys))

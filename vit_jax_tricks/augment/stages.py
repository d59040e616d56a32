"""The stages of a config's augmentation, in order.

A stage takes images and their geometry so far, and returns both. It draws its moves
once: the pixels and the geometry come from the same numbers, so labels can follow.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment import affine, crop, parse, policy, resized_crop
from vit_jax_tricks.augment.auto_augment import aug_mix
from vit_jax_tricks.augment.color_jitter import color_jitter
from vit_jax_tricks.augment.geometry import Geometry, identity_geometry
from vit_jax_tricks.augment.operations import operation_matrix
from vit_jax_tricks.augment.pixels import to_float, to_uint8
from vit_jax_tricks.augment.settings import Settings
from vit_jax_tricks.augment.warp import translate_matrix
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Integer, PRNGKeyArray


Moved = tuple[Array, Geometry]
Stage = Callable[[PRNGKeyArray, Array, Array, Geometry], Moved]
Still = Callable[[PRNGKeyArray, Array, Array], Array]


def stages(
    *, mean: tuple[float, ...], size: int | None = None, **options: Any
) -> list[tuple[str, Stage]]:
    """The parts of `Stack.augment` in order, with the names of their random streams.

    Each is (key, images, index [b], geometry) -> (images, geometry). Parts that are off
    are left out. Arguments and errors as in `from_config`.
    """
    s = Settings(**options)
    s.check()
    parts: list[tuple[str, Stage]] = []
    if s.crop != "none":
        parts.append(("box", functools.partial(_crop, s, size)))
    elif size is not None:
        parts.append(("size", functools.partial(_resize, s, size)))
    if s.flip:
        parts.append(("flip", _flip))
    fill = tuple(min(255, round(255 * m)) for m in mean)
    warps = {"fill": fill, "interpolation": s.interpolation}
    if s.auto_augment.startswith("augmix"):
        mixed = still(functools.partial(aug_mix, policy=s.auto_augment, **warps))
        parts.append(("policy", _overlaid(mixed)))
    elif s.auto_augment != "none":
        law = parse.parse_policy(s.auto_augment)
        parts.append(("policy", functools.partial(_policy, law, **warps)))
    if s.jitters:
        strength = s.color_jitter
        jitter = functools.partial(
            color_jitter,
            brightness=strength,
            contrast=strength,
            saturation=strength,
            hue=s.hue,
            prob=s.jitter_prob,
        )
        parts.append(("jitter", still(jitter)))
    if s.warps:
        parts.append(("affine", functools.partial(_affine, s)))
    if s.pad:
        parts.append(("crop", functools.partial(_pad_crop, s.pad)))
    return parts


def still(fn: Still) -> Stage:
    """A stage of a function (key, images, index) -> images that moves no pixel."""

    def stage(
        key: PRNGKeyArray, images: Array, index: Array, geometry: Geometry
    ) -> Moved:
        return fn(key, images, index), geometry

    return stage


def _overlaid(stage: Stage) -> Stage:
    """The stage, after which labels can follow no more."""

    def overlays(*args: Any) -> Moved:
        images, geometry = stage(*args)
        return images, geometry.replace(overlaid=True)

    return overlays


def _crop(
    s: Settings,
    size: int | None,
    key: PRNGKeyArray,
    images: Array,
    index: Integer[Array, "b"],
    geometry: Geometry,
) -> Moved:
    """Crops and resizes to `size`, or to the original size; the first of all moves.

    Raises: UserError for images that are not square, if the crop needs squares.
    """
    source = h, w = geometry.source
    if s.crop != "random_resized" and h != w:
        raise UserError(f"config.augment.crop={s.crop} needs squares, not {h}x{w}.")
    side = h if size is None else size
    if s.crop == "simple":
        geometry = resized_crop.draw_simple(key, index, source, size=side)
    else:
        square = s.crop == "random_or_center"
        draw: Any = resized_crop.draw_random_resized
        draw = resized_crop.draw_random_or_center if square else draw
        geometry = draw(
            key,
            index,
            source,
            size=side if square else source if size is None else (size, size),
            scale=s.crop_scale,
            ratio=s.crop_ratio,
        )
    how = resized_crop.draw_interpolation(key, index, s.interpolation)
    whole = s.crop == "random_resized"
    cut = resized_crop.cut_whole if whole else resized_crop.cut_part
    return _cut_each(s, cut, images, geometry, how), geometry


def _resize(
    s: Settings,
    size: int,
    key: PRNGKeyArray,
    images: Array,
    index: Integer[Array, "b"],
    geometry: Geometry,
) -> Moved:
    """Resizes whole images to `size`; the first of all moves."""
    if geometry.source == (size, size):
        return images, geometry
    geometry = identity_geometry(len(index), geometry.source, (size, size))
    how = resized_crop.draw_interpolation(key, index, s.interpolation)
    return _cut_each(s, resized_crop.cut_whole, images, geometry, how), geometry


def _cut_each(
    s: Settings,
    cut: Callable[..., Array],
    images: Array,
    geometry: Geometry,
    how: Any,
) -> Array:
    """cut(images, geometry, how); on a CPU, image by image, so that it stays in cache.

    uint8 images are resampled as floats, at half the cost, and rounded only if a later
    stage works on grey levels.
    """
    rounds = images.dtype == jnp.uint8 and s.on_levels
    named = isinstance(how, str)
    each = (images, geometry) if named else (images, geometry, how)

    def together(images: Array, *rest: Any) -> Array:
        rest = (*rest, how) if named else rest
        images = cut(to_float(images), *rest)
        return to_uint8(images) if rounds else images

    def one_by_one(*each: Any) -> Array:
        def one(image: Any) -> Array:
            return together(*jax.tree.map(lambda x: x[None], image))[0]

        return jax.lax.map(one, each)

    return jax.lax.platform_dependent(*each, cpu=one_by_one, default=together)


def _flip(
    key: PRNGKeyArray, images: Array, index: Integer[Array, "b"], geometry: Geometry
) -> Moved:
    flips = crop.random_flips(key, index)
    return crop.flip(images, flips), geometry.flipped(flips)


def _policy(
    law: policy.Policy,
    key: PRNGKeyArray,
    images: Array,
    index: Integer[Array, "b"],
    geometry: Geometry,
    *,
    fill: tuple[int, ...],
    interpolation: str,
) -> Moved:
    size = geometry.size
    drawn = policy.draw_each(law, key, index, size, interpolation=interpolation)
    for slot in range(law.slots):
        matrix = operation_matrix(drawn.op[:, slot], drawn.amount[:, slot], size)
        geometry = geometry.warped(matrix)
    return policy.apply_drawn(drawn, images, law, fill=fill), geometry


def _affine(
    s: Settings,
    key: PRNGKeyArray,
    images: Array,
    index: Integer[Array, "b"],
    geometry: Geometry,
) -> Moved:
    matrix = affine.draw_about_centre(key, index, geometry.size, **s.warps)
    moved = geometry.warped(affine.from_corner(matrix, geometry.size))
    return affine.warp_about_centre(to_float(images), matrix), moved


def _pad_crop(
    pad: int,
    key: PRNGKeyArray,
    images: Array,
    index: Integer[Array, "b"],
    geometry: Geometry,
) -> Moved:
    shifts = crop.random_shifts(key, index, pad=pad)
    y, x = shifts.astype(geometry.affine.dtype).T
    moved = geometry.warped(translate_matrix(x, y))
    return crop.shift(images, shifts, pad=pad), moved

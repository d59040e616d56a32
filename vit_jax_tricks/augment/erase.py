"""Random erasing: fills boxes of an image with noise or a constant.

Source: Zhong et al., 2017, arXiv:1708.04896; equal in distribution to timm's
RandomErasing.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.random import example_keys, fold_in_str, uniform_below
from vit_jax_tricks.typing import Array, Float, Int, Integer, Num, Pixels, PRNGKeyArray


MODES = ("const", "rand", "pixel")
ATTEMPTS = 10
Level = float | int | Sequence[float | int]


@checked
def erase_boxes(
    images: Num[Array, "b h w c"],
    boxes: Int[Array, "b m 4"],
    noise: Num[Array, "#b #m #h #w #c"],
) -> Num[Array, "b h w c"]:
    """Fills boxes (y0, y1, x0, x1) with their noise, one after another.

    Equivalent to timm's RandomErasing for given boxes and noise (tested).
    """
    _, h, w, _ = images.shape
    noise = jnp.broadcast_to(
        noise, (noise.shape[0], boxes.shape[1], *noise.shape[2:])
    ).astype(images.dtype)
    y, x = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None]
    for m in range(boxes.shape[1]):
        y0, y1, x0, x1 = (boxes[:, m, i, None, None] for i in range(4))
        inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
        images = jnp.where(inside[..., None], noise[:, m], images)
    return jnp.asarray(images)


@checked
def random_erasing_boxes(
    key: PRNGKeyArray,
    size: tuple[int, int],
    *,
    count: tuple[int, int] = (1, 1),
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> Int[Array, "m 4"]:
    """Draws boxes (y0, y1, x0, x1) in an image of `size`; unused boxes are empty.

    The number of boxes is uniform in `count[0]` to `count[1]`. Each box has ten
    attempts with area ~ U(scale) h w / count and h/w = exp(U(log ratio)); the first one
    smaller than the image in both directions is placed uniformly. Sides are rounded
    half to even.
    """
    # A single draw of all numbers compiles far faster than separate draws.
    first, *rest = jnp.split(
        jax.random.uniform(key, (1 + count[1] * (2 * ATTEMPTS + 2),)),
        [1 + m * (2 * ATTEMPTS + 2) for m in range(count[1])],
    )
    number = count[0] + uniform_below(first[0], jnp.int32(count[1] - count[0] + 1))
    low, high = math.log(ratio[0]), math.log(ratio[1])

    def box(draws: jax.Array) -> jax.Array:
        areas, ratios, place = jnp.split(draws, [ATTEMPTS, 2 * ATTEMPTS])
        area = (scale[0] + areas * (scale[1] - scale[0])) * size[0] * size[1]
        area = area / number.astype(area.dtype)
        aspect = jnp.exp(low + ratios * (high - low))
        sides = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=1)))
        sides = sides.astype(jnp.int32)
        fits = jnp.all(sides < jnp.array(size, jnp.int32)[None], axis=1)
        chosen = jnp.argmax(fits)
        side = jnp.where(fits[chosen], sides[chosen], 0)
        start = uniform_below(place, jnp.array(size, jnp.int32) - side + 1)
        return jnp.stack([start, start + side], axis=1).reshape(4)

    boxes = jax.vmap(box)(jnp.stack(rest))
    return jnp.where((jnp.arange(count[1]) < number)[:, None], boxes, 0)


@checked
def random_erasing(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    prob: float = 0.25,
    mode: str = "pixel",
    count: tuple[int, int] = (1, 1),
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    mean: Level = 0.0,
    std: Level = 1.0,
) -> Num[Array, "b h w c"]:
    """Erases boxes of each image with probability `prob`; see `random_erasing_boxes`.

    `mode` "pixel" fills with normal noise, "rand" with one normal colour for each box,
    and "const" with 0; the value is then multiplied by `std` and shifted by `mean`. The
    defaults suit normalised images; before normalisation, pass the data set's mean and
    std. uint8 values are rounded and clipped to 0..255. Each image's draw depends only
    on (key, its index).

    Raises: UserError for an unknown mode or a value out of range.
    """
    _check(prob, mode, count, scale, ratio)
    _, h, w, c = images.shape
    keys = example_keys(fold_in_str(key, "erase"), index)
    apply_keys, box_keys, noise_keys = jax.vmap(lambda k: jax.random.split(k, 3))(
        keys
    ).T
    boxes = jax.vmap(
        lambda k: random_erasing_boxes(k, (h, w), count=count, scale=scale, ratio=ratio)
    )(box_keys)
    applied = jax.vmap(lambda k: jax.random.bernoulli(k, prob))(apply_keys)
    boxes = jnp.where(applied[:, None, None], boxes, 0)
    if mode == "pixel":
        # Rounding the sides adds at most half of height + width to a box.
        room = math.ceil(scale[1] * h * w) + count[1] * (h + w)

        def pixels() -> Array:
            fill = jax.vmap(lambda k, box: _fill(k, box, (h, w), (room, c)))
            return fill(noise_keys, boxes)

        # The branch also keeps later fusions from drawing the noise twice.
        black = functools.partial(jnp.zeros, images.shape, jnp.result_type(float))
        noise = jax.lax.cond(jnp.any(applied), pixels, black)[:, None]
    elif mode == "rand":
        colours = jax.vmap(lambda k: jax.random.normal(k, (count[1], 1, 1, c)))
        noise = colours(noise_keys)
    else:
        noise = jnp.zeros((1, 1, 1, 1, c))
    level, spread = (
        jnp.broadcast_to(jnp.asarray(v, noise.dtype), (c,)).reshape(1, 1, 1, 1, c)
        for v in (mean, std)
    )
    noise = noise * spread + level
    if images.dtype == jnp.uint8:
        noise = jnp.clip(jnp.round(noise), 0, 255)
    return erase_boxes(images, boxes, noise)


def _fill(
    key: PRNGKeyArray,
    boxes: Int[Array, "m 4"],
    size: tuple[int, int],
    shape: tuple[int, int],
) -> Float[Array, "h w c"]:
    """Normal noise of `shape` (pixels, channels), written into the boxes row by row.

    Boxes are smaller than images, so noise for a third of the image suffices.
    """
    y = jnp.arange(size[0], dtype=jnp.int32)[:, None]
    x = jnp.arange(size[1], dtype=jnp.int32)[None]
    place, used = jnp.zeros(size, jnp.int32), jnp.int32(0)
    for y0, y1, x0, x1 in boxes:
        inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
        place = jnp.where(inside, used + (y - y0) * (x1 - x0) + (x - x0), place)
        used += (y1 - y0) * (x1 - x0)
    noise = jax.random.normal(key, (shape[0] * shape[1],)).reshape(shape)
    return jnp.take(noise, place, axis=0, mode="clip")


def _check(
    prob: float,
    mode: str,
    count: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> None:
    if mode not in MODES:
        raise UserError(f'mode="{mode}" is unknown.{nearest(mode, MODES)}')
    if not 0 <= prob <= 1:
        raise UserError(f"prob={prob} is a probability: give 0 to 1.")
    for name, (low, high) in (("count", count), ("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high:
            raise UserError(f"{name}=({low}, {high}): expected 0 < low <= high.")

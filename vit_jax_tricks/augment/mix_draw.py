"""Random draws of mixup and CutMix: how much of each image, and which pixels, to keep.

One draw serves the whole batch ("batch"), each image ("elem"), or each image and its
partner b-1-i ("pair").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.random import example_keys
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


MODES = ("batch", "pair", "elem")


class MixDraw(NamedTuple):
    """The draw; n is 1 (shared by all) or the batch size.

    An image keeps `weight` [n] of each pixel outside `box` [n, 4] (y0, y1, x0, x1) and
    nothing inside; its label keeps `share` [n]. The partner supplies the rest.
    """

    weight: Float[Array, "#b"]
    box: Int[Array, "#b 4"]
    share: Float[Array, "#b"]


def outside_box(
    box: Int[Array, "*b 4"],
    size: tuple[int, int],
    grid: tuple[int, int] | None = None,
) -> tuple[Float[Array, "*b h w"], Float[Array, "*b"]]:
    """Share of each cell that lies outside the box, and that of the whole image.

    The cells are the pixels of an image of `size` (so 1 or 0), or a `grid` over it.
    """
    grid = size if grid is None else grid
    dtype = jnp.result_type(float)

    def covered(axis: int) -> jax.Array:
        step = size[axis] / grid[axis]
        low, high = (box[..., 2 * axis + i, None].astype(dtype) for i in (0, 1))
        edge = jnp.arange(grid[axis], dtype=dtype) * step
        edge = edge.reshape((1,) * (box.ndim - 1) + edge.shape)
        inside = jnp.minimum(high, edge + step) - jnp.maximum(low, edge)
        return jnp.clip(inside / step, 0, 1)

    area = (box[..., 1] - box[..., 0]) * (box[..., 3] - box[..., 2])
    share = 1 - area.astype(dtype) / (size[0] * size[1])
    return 1 - covered(0)[..., None] * covered(1)[..., None, :], share


def kept(
    draw: MixDraw, size: tuple[int, int], grid: tuple[int, int] | None = None
) -> Float[Array, "n h w"]:
    """Share of each pixel, or of each cell of a `grid`, that the image keeps."""
    return draw.weight[:, None, None] * outside_box(draw.box, size, grid)[0]


@checked
def cutmix_box(
    lam: Float[Array, ""], centre: Int[Array, "2"], size: tuple[int, int]
) -> Int[Array, "4"]:
    """Box (y0, y1, x0, x1) about a pixel, sides floor(size sqrt(1 - lam)), clipped.

    Equivalent to timm 1.0.31's rand_bbox for a given centre (tested).
    """
    side = jnp.asarray(size)
    cut = jnp.floor(side.astype(lam.dtype) * jnp.sqrt(1.0 - lam)).astype(side.dtype)
    low = centre.astype(side.dtype) - cut // 2
    edges = jnp.stack([low, low + cut], axis=1)
    return jnp.clip(edges, 0, side[:, None]).reshape(4)


@checked
def draw_mix(
    key: PRNGKeyArray,
    batch: int,
    size: tuple[int, int],
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
    cutmix_minmax: tuple[float, float] | None = None,
    correct_lam: bool = True,
) -> MixDraw:
    """Draws for images of `size` (h, w); equal in distribution to timm's Mixup.

    With probability `prob`, CutMix (with probability `switch_prob` if both are on) or
    mixup is applied, with lambda ~ Beta(alpha, alpha) for the chosen one. A CutMix box
    has area 1 - lambda about a uniform pixel and is clipped. With `cutmix_minmax`, its
    sides are instead uniform between these fractions of the image's sides and it lies
    inside the image, whatever `cutmix_alpha`.

    Args:
      mixup_alpha, cutmix_alpha: 0 switches the method off.
      mode: "batch", "pair" or "elem": the images that share a draw.
      correct_lam: if true, a label's share is the share of pixels after clipping;
        otherwise, for boxes drawn by lambda, lambda itself.

    Raises:
      UserError: a value out of range.
    """
    _check(mixup_alpha, cutmix_alpha, prob, switch_prob, mode)
    _check_minmax(cutmix_minmax, size)
    with_cutmix = cutmix_alpha > 0 or cutmix_minmax is not None
    if not mixup_alpha and not with_cutmix:
        return MixDraw(jnp.ones(1), jnp.zeros((1, 4), jnp.int32), jnp.ones(1))

    def one(k: PRNGKeyArray) -> MixDraw:
        apply_key, switch_key, lam_key, place_key = jax.random.split(k, 4)
        if mixup_alpha and with_cutmix:
            cut = jax.random.bernoulli(switch_key, switch_prob)
            alpha = jnp.where(cut, cutmix_alpha or 1.0, mixup_alpha)
        else:
            cut = jnp.bool_(with_cutmix)
            alpha = mixup_alpha or cutmix_alpha or 1.0
        lam = jax.random.beta(lam_key, alpha, alpha)
        applied = jax.random.bernoulli(apply_key, prob)
        lam = jnp.where(applied, lam, 1.0)
        box = jnp.zeros(4, jnp.int32)
        if with_cutmix:
            if cutmix_minmax is None:
                centre = jax.random.randint(place_key, (2,), 0, jnp.asarray(size))
                box = cutmix_box(lam, centre, size)
            else:
                box = _box_between(place_key, size, cutmix_minmax)
            box = jnp.where(cut & applied, box, 0).astype(jnp.int32)
        share = outside_box(box, size)[1].astype(lam.dtype)
        if not correct_lam and cutmix_minmax is None:
            share = lam
        return MixDraw(jnp.where(cut, 1.0, lam), box, jnp.where(cut, share, lam))

    if mode == "batch":
        return jax.tree.map(lambda value: value[None], one(key))
    place = jnp.arange(batch)
    if mode == "pair":
        place = jnp.minimum(place, batch - 1 - place)
    return jax.vmap(one)(example_keys(key, place))


def _box_between(
    key: PRNGKeyArray, size: tuple[int, int], minmax: tuple[float, float]
) -> Int[Array, "4"]:
    """Box with sides uniform in [int(side low), int(side high)), placed uniformly."""
    side_key, place_key = jax.random.split(key)
    low, high = (jnp.array([int(side * part) for side in size]) for part in minmax)
    cut = jax.random.randint(side_key, (2,), low, high)
    start = jax.random.randint(place_key, (2,), 0, jnp.asarray(size) - cut)
    return jnp.stack([start, start + cut], axis=1).reshape(4)


def _check(
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float,
    switch_prob: float,
    mode: str,
) -> None:
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if value < 0:
            raise UserError(f"{name}={value} must not be negative; 0 switches it off.")
    for name, value in (("prob", prob), ("switch_prob", switch_prob)):
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value} is a probability: give 0 to 1.")
    if mode not in MODES:
        raise UserError(f'mode="{mode}" is unknown.{nearest(mode, MODES)}')


def _check_minmax(minmax: tuple[float, float] | None, size: tuple[int, int]) -> None:
    if minmax is None:
        return
    low, high = minmax
    if not 0 <= low < high <= 1 or int(min(size) * low) == int(min(size) * high):
        raise UserError(
            f"cutmix_minmax=({low}, {high}) leaves no side of {min(size)} pixels: "
            "expected 0 <= low < high <= 1."
        )

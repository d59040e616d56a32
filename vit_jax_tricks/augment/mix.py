"""Mixup and CutMix: each image is blended with its partner, and so is its label.

The partner of image i is image b-1-i (the reversed batch). Both methods are one
formula, W x + (1 - W) x_reversed, with a weight map W [b, h, w] that is constant for
mixup and 0/1 for CutMix; the label's weight is the mean of W.
"""

import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Array, Float, Int, PRNGKeyArray


Mixed = tuple[Float[Array, "b h w c"], Float[Array, "b k"]]


def blend(
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    weights: Float[Array, "#b h w"],
    lam: Float[Array, "#b"],
) -> Mixed:
    """W x + (1 - W) x_reversed for images, and the same with lam for labels."""
    pixel = weights[..., None].astype(images.dtype)
    share = lam[:, None].astype(labels.dtype)
    return (
        images * pixel + images[::-1] * (1 - pixel),
        labels * share + labels[::-1] * (1 - share),
    )


def mixup_with(
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    lam: Float[Array, ""] | Float[Array, "b"],
) -> Mixed:
    """Mixup with a given share of the first image, one for all or one each.

    Equivalent to timm's Mixup once lambda is drawn (tested).
    """
    lam = jnp.atleast_1d(lam)
    size = images.shape[1:3]
    weights = jnp.broadcast_to(lam[:, None, None], (lam.shape[0], *size))
    return blend(images, labels, weights, lam)


def outside_box(
    box: Int[Array, "*b 4"], size: tuple[int, int]
) -> tuple[Float[Array, "*b h w"], Float[Array, "*b"]]:
    """1 outside the box and 0 inside, and the share of the image outside."""
    low_y, high_y, low_x, high_x = jnp.moveaxis(box[..., None, None], -3, 0)
    y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None]
    y = y.reshape((1,) * (box.ndim - 1) + y.shape)
    x = x.reshape((1,) * (box.ndim - 1) + x.shape)
    inside = (y >= low_y) & (y < high_y) & (x >= low_x) & (x < high_x)
    weights = 1.0 - inside.astype(jnp.result_type(float))
    area = (box[..., 1] - box[..., 0]) * (box[..., 3] - box[..., 2])
    lam = 1.0 - area.astype(weights.dtype) / (size[0] * size[1])
    return weights, lam


def cutmix_with(
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    box: Int[Array, "4"] | Int[Array, "b 4"],
    lam: Float[Array, ""] | Float[Array, "b"] | None = None,
) -> Mixed:
    """CutMix with a given box (y0, y1, x0, x1), one for all or one each.

    The label's share is that of the pixels, unless `lam` overrides it (timm's
    `correct_lam=False`). Equivalent to timm's Mixup once the box is drawn (tested).
    """
    _, h, w, _ = images.shape
    weights, share = outside_box(jnp.atleast_2d(box), (h, w))
    return blend(images, labels, weights, share if lam is None else jnp.atleast_1d(lam))


def cutmix_box(
    lam: Float[Array, ""], centre: Int[Array, "2"], size: tuple[int, int]
) -> Int[Array, "4"]:
    """A box (y0, y1, x0, x1), side floor(size sqrt(1 - lam)), about a pixel, clipped.

    Equivalent to timm 1.0.31's rand_bbox for a given centre (tested).
    """
    side = jnp.asarray(size)
    cut = jnp.floor(side.astype(lam.dtype) * jnp.sqrt(1.0 - lam)).astype(side.dtype)
    low = centre.astype(side.dtype) - cut // 2
    edges = jnp.stack([low, low + cut], axis=1)
    return jnp.clip(edges, 0, side[:, None]).reshape(4)


def _check(mixup_alpha: float, cutmix_alpha: float, prob: float, switch: float) -> None:
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if value < 0:
            raise UserError(f"{name}={value} must not be negative; 0 switches it off.")
    for name, value in (("prob", prob), ("switch_prob", switch)):
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value} is a probability: give 0 to 1.")


def mix_weights(
    key: PRNGKeyArray,
    size: tuple[int, int],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> tuple[Float[Array, "1 h w"], Float[Array, "1"]]:
    """Draws one weight map and label share for a batch; map of ones when not applied.

    With probability `prob`: CutMix (with probability `switch_prob` where both are on)
    or mixup, lambda ~ Beta(alpha, alpha) of the chosen one; a CutMix box has a uniform
    centre and its share is recomputed from the clipped integer box.
    Raises: UserError for a negative alpha or a probability outside 0..1.
    Source: timm's Mixup in batch mode.
    """
    _check(mixup_alpha, cutmix_alpha, prob, switch_prob)
    if not mixup_alpha and not cutmix_alpha:
        return jnp.ones((1, *size)), jnp.ones(1)
    apply_key, switch_key, lam_key, centre_key = jax.random.split(key, 4)
    if mixup_alpha and cutmix_alpha:
        cut = jax.random.bernoulli(switch_key, switch_prob)
        alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    else:
        cut = jnp.bool_(cutmix_alpha > 0)
        alpha = cutmix_alpha or mixup_alpha
    lam = jax.random.beta(lam_key, alpha, alpha, (1,))
    weights = jnp.broadcast_to(lam[:, None, None], (1, *size))
    if cutmix_alpha:
        centre = jax.random.randint(centre_key, (2,), 0, jnp.asarray(size))
        box = cutmix_box(lam[0], centre, size)
        cut_weights, cut_lam = outside_box(box[None], size)
        weights = jnp.where(cut, cut_weights, weights)
        lam = jnp.where(cut, cut_lam, lam)
    applied = jax.random.bernoulli(apply_key, prob)
    return jnp.where(applied, weights, 1.0), jnp.where(applied, lam, 1.0)


def mixup_or_cutmix(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> Mixed:
    """One of mixup, CutMix or nothing for the whole batch; see `mix_weights`.

    The defaults are DeiT's. Sources: Zhang et al. 2017, arXiv 1710.09412; Yun et al.
    2019, arXiv 1905.04899; timm's Mixup.
    """
    _, h, w, _ = images.shape
    weights, lam = mix_weights(
        key,
        (h, w),
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch_prob=switch_prob,
    )
    return blend(images, labels, weights, lam)


def mixup(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    *,
    alpha: float = 0.8,
    prob: float = 1.0,
) -> Mixed:
    """x lam + x_reversed (1 - lam) with lam ~ Beta(alpha, alpha), one for the batch."""
    return mixup_or_cutmix(
        key, images, labels, mixup_alpha=alpha, cutmix_alpha=0.0, prob=prob
    )


def cutmix(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
) -> Mixed:
    """Pastes a box of the reversed batch, area 1 - lam, lam ~ Beta(alpha, alpha)."""
    return mixup_or_cutmix(
        key, images, labels, mixup_alpha=0.0, cutmix_alpha=alpha, prob=prob
    )

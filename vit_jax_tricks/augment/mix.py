"""Mixup and CutMix: blend each image, and its label, with those of its partner.

The partner of image i is image b-1-i (the reversed batch). Both methods are one
formula, W x + (1 - W) x_reversed, with a weight map W [b, h, w] that is constant for
mixup and 0/1 for CutMix; the label's weight is the mean of W.

Labels are one-hot or soft, [b, k], or a dict of arrays. Those of shape [b, p, q, k] are
dense: they cover the image as a grid of p x q cells and are mixed cell by cell. One-hot
integer labels are mixed as float32.
"""

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.mix_draw import MixDraw, draw_mix, kept, outside_box
from vit_jax_tricks.checks import checked
from vit_jax_tricks.typing import Array, Float, Int, Label, Num, Pixels, PRNGKeyArray


Labels = (
    Label[Array, "b k"]
    | Label[Array, "b p q k"]
    | dict[str, Label[Array, "b k"] | Label[Array, "b p q k"]]
)
Mixed = tuple[Num[Array, "b h w c"], Labels]


@checked
def blend(
    images: Pixels[Array, "b h w c"],
    labels: Label[Array, "b k"],
    weights: Float[Array, "#b h w"],
    lam: Float[Array, "#b"],
) -> tuple[Num[Array, "b h w c"], Float[Array, "b k"]]:
    """W x + (1 - W) x_reversed for images, and the same with lam for labels."""
    return _blend(images, weights), _blend(_floats(labels), lam)


def _blend(x: Num[Array, "b ..."], weights: Float[Array, "#b ..."]) -> jax.Array:
    """Blends x with its reversed batch; uint8 results are rounded half to even."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    weights = weights.reshape(*weights.shape, *[1] * (x.ndim - weights.ndim))
    weights, values = weights.astype(dtype), jnp.asarray(x, dtype)
    out = values * weights + values[::-1] * (1 - weights)
    return (out if dtype == x.dtype else jnp.rint(out)).astype(x.dtype)


def _floats(label: Label[Array, "b ..."]) -> Float[Array, "b ..."]:
    known = jnp.issubdtype(label.dtype, jnp.floating)
    return jnp.asarray(label) if known else jnp.asarray(label, jnp.float32)


@checked
def mix_with(draw: MixDraw, images: Pixels[Array, "b h w c"], labels: Labels) -> Mixed:
    """Mixes images and labels by a given draw; for dense labels, see the module."""
    size = images.shape[1], images.shape[2]

    def mixed(label: Array) -> jax.Array:
        label = _floats(label)
        if label.ndim == 2:
            return _blend(label, draw.share)
        return _blend(label, kept(draw, size, (label.shape[1], label.shape[2])))

    return _blend(images, kept(draw, size)), jax.tree.map(mixed, labels)


@checked
def mixup_with(
    images: Pixels[Array, "b h w c"],
    labels: Labels,
    lam: Float[Array, ""] | Float[Array, "#b"] | float,
) -> Mixed:
    """Mixup with a given share of the first image, one for all or one for each.

    Equivalent to timm's Mixup for a given lambda (tested).
    """
    lam = jnp.atleast_1d(lam)
    return mix_with(
        MixDraw(lam, jnp.zeros((len(lam), 4), jnp.int32), lam), images, labels
    )


@checked
def cutmix_with(
    images: Pixels[Array, "b h w c"],
    labels: Labels,
    box: Int[Array, "4"] | Int[Array, "#b 4"],
    lam: Float[Array, ""] | Float[Array, "#b"] | float | None = None,
) -> Mixed:
    """CutMix with a given box (y0, y1, x0, x1), one for all or one for each.

    The label's share is the share of the pixels, unless `lam` overrides it (timm's
    `correct_lam=False`). Equivalent to timm's Mixup for a given box (tested).
    """
    box = jnp.atleast_2d(box)
    share = outside_box(box, (images.shape[1], images.shape[2]))[1]
    lam = share if lam is None else jnp.atleast_1d(lam)
    return mix_with(MixDraw(jnp.ones_like(share), box, lam), images, labels)


@checked
def mix_weights(
    key: PRNGKeyArray,
    size: tuple[int, int],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> tuple[Float[Array, "1 h w"], Float[Array, "1"]]:
    """Draws one weight map and one label share for a batch, by `draw_mix`."""
    draw = draw_mix(
        key,
        1,
        size,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch_prob=switch_prob,
    )
    return kept(draw, size), draw.share


@checked
def mixup_or_cutmix(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    labels: Labels,
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
    cutmix_minmax: tuple[float, float] | None = None,
    correct_lam: bool = True,
) -> Mixed:
    """Applies mixup, CutMix or neither, drawn for the batch, each pair or each image.

    See `draw_mix` for the options and the distribution, and the module docstring for
    dense labels. The defaults are DeiT's.

    Sources: Zhang et al., 2017, arXiv:1710.09412; Yun et al., 2019, arXiv:1905.04899;
    timm's Mixup.
    """
    draw = draw_mix(
        key,
        len(images),
        (images.shape[1], images.shape[2]),
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch_prob=switch_prob,
        mode=mode,
        cutmix_minmax=cutmix_minmax,
        correct_lam=correct_lam,
    )
    return mix_with(draw, images, labels)


@checked
def mixup(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    labels: Labels,
    *,
    alpha: float = 0.8,
    prob: float = 1.0,
) -> Mixed:
    """lam x + (1 - lam) x_reversed with lam ~ Beta(alpha, alpha), one for the batch."""
    return mixup_or_cutmix(
        key, images, labels, mixup_alpha=alpha, cutmix_alpha=0.0, prob=prob
    )


@checked
def cutmix(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    labels: Labels,
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
) -> Mixed:
    """Pastes a box of area 1 - lam of the reversed batch, lam ~ Beta(alpha, alpha)."""
    return mixup_or_cutmix(
        key, images, labels, mixup_alpha=0.0, cutmix_alpha=alpha, prob=prob
    )

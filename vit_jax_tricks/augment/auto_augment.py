"""AutoAugment, RandAugment, TrivialAugment, AugMix and 3-Augment.

All of them work on grey levels: floats in [0, 1] are rounded to 256 levels, and no
gradient passes. `fill` (in grey levels) is the colour outside a warped image. The
`interpolation` of warps is nearest, bilinear, bicubic, or random, which picks bilinear
or bicubic at random.
"""

import jax
import jax.numpy as jnp

from vit_jax_tricks.augment.color_jitter import color_jitter
from vit_jax_tricks.augment.enhance import blend_with
from vit_jax_tricks.augment.operations import apply_operations
from vit_jax_tricks.augment.parse import parse_aug_mix, parse_policy, trivial
from vit_jax_tricks.augment.pixels import from_uint8, to_uint8
from vit_jax_tricks.augment.policy import (
    IMAGENET_MEAN,
    Fill,
    apply_policy,
    draw,
    fill_for,
    pick_interpolation,
)
from vit_jax_tricks.checks import checked
from vit_jax_tricks.random import example_keys, fold_in_str
from vit_jax_tricks.typing import Array, Int, Integer, Num, Pixels, PRNGKeyArray


@checked
def auto_augment(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    policy: str = "original",
    fill: Fill = IMAGENET_MEAN,
    interpolation: str = "bicubic",
) -> Num[Array, "b h w c"]:
    """Applies one of the policy's pairs of operations, by their probability and level.

    `policy` is original, originalr, v0 or v0r (timm's), or imagenet, cifar10 or svhn
    (torchvision's levels). Each image's draw depends only on (key, its index).

    Raises: UserError for an unknown policy.
    Source: Cubuk et al., 2019, arXiv:1805.09501.
    """
    return apply_policy(
        key, images, index, parse_policy(policy), fill=fill, interpolation=interpolation
    )


@checked
def rand_augment(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    policy: str = "rand-m9-mstd0.5-inc1",
    fill: Fill = IMAGENET_MEAN,
    interpolation: str = "bicubic",
) -> Num[Array, "b h w c"]:
    """Applies n operations, drawn with replacement, at level m.

    `policy` is timm's string. Its parts, with defaults: m level (10), n number of
    operations (2), p probability of applying each (0.5), mstd standard deviation of the
    level (0; above 100: uniform from 0 to m), mmax highest level (10), inc1 operations
    whose strength grows with the level, and t3a, t3aw or tweights for another set of
    operations. torchvision-n2-m9-bins31 is torchvision's form. The default is DeiT's.
    Each image's draw depends only on (key, its index).

    Raises: UserError for a string that does not parse.
    Source: Cubuk et al., 2020, arXiv:1909.13719, as implemented in timm.
    """
    return apply_policy(
        key, images, index, parse_policy(policy), fill=fill, interpolation=interpolation
    )


@checked
def trivial_augment(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    bins: int = 31,
    fill: Fill = 0.0,
    interpolation: str = "nearest",
) -> Num[Array, "b h w c"]:
    """Applies one of 14 operations at one of `bins` levels, both drawn uniformly.

    Each image's draw depends only on (key, its index). Equal in distribution to
    torchvision's TrivialAugmentWide, including the defaults.

    Source: Müller & Hutter, 2021, arXiv:2103.10158.
    """
    return apply_policy(
        key, images, index, trivial(bins), fill=fill, interpolation=interpolation
    )


@checked
def three_augment(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    jitter: float = 0.3,
) -> Num[Array, "b h w c"]:
    """Turns each image grey, solarizes or blurs it (sigma 0.1 to 2); jitters colours.

    The jitter changes brightness, contrast and saturation. Each image's draw depends
    only on (key, its index).

    Source: 3-Augment of DeiT III, Touvron et al., 2022, arXiv:2204.07118.
    """
    policy_key, jitter_key = fold_in_str(key, "policy"), fold_in_str(key, "jitter")
    images = apply_policy(policy_key, images, index, parse_policy("3a"))
    return color_jitter(
        jitter_key,
        images,
        index,
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
        hue=0.0,
        prob=1.0,
    )


@checked
def aug_mix(
    key: PRNGKeyArray,
    images: Pixels[Array, "b h w c"],
    index: Integer[Array, "b"],
    *,
    policy: str = "augmix-m3-w3",
    fill: Fill = IMAGENET_MEAN,
    interpolation: str = "bicubic",
) -> Num[Array, "b h w c"]:
    """(1 - m) x + m sum_i w_i chain_i(x), m ~ Beta(a, a), w ~ Dirichlet(a, ..., a).

    `policy` is timm's string. Its parts, with defaults: m highest level (3), w number
    of chains (3), d operations in each chain (1 to 3, at random), a alpha (1), mstd
    standard deviation of the level m (if absent: uniform from 0 to m). Each image's
    draw depends only on (key, its index). For the consistency loss
    `losses.jensen_shannon`, make two versions of each image with two keys.

    Raises: UserError for a string that does not parse.
    Source: Hendrycks et al., 2020, arXiv:1912.02781, as implemented in timm.
    """
    mix = parse_aug_mix(policy)
    _, h, w, c = images.shape
    levels = to_uint8(images)

    def of_image(k: PRNGKeyArray) -> tuple[Array, Array, Array]:
        chain_key, weight_key, share_key = jax.random.split(k, 3)
        alphas = jnp.full(mix.width, mix.alpha, jnp.float32)
        weights = jax.random.dirichlet(weight_key, alphas, dtype=jnp.float32)
        share = jax.random.beta(share_key, mix.alpha, mix.alpha, dtype=jnp.float32)
        return jax.random.split(chain_key, mix.width), weights, share

    keys, weights, share = jax.vmap(of_image)(example_keys(key, index))

    def add(total: Array, chain: tuple) -> tuple[Array, None]:
        chain_keys, weight = chain
        op, amount = draw(mix.policy, chain_keys, (h, w))
        if mix.depth is None:
            place = jnp.arange(mix.policy.slots)[None]
            op = jnp.where(place < _any_depth(chain_keys)[:, None], op, 0)
        out = apply_operations(
            levels,
            op,
            amount,
            among=mix.policy.operations,
            fill=fill_for(c, fill),
            interpolation=pick_interpolation(
                interpolation, chain_keys, mix.policy.slots
            ),
        )
        return total + weight[:, None, None, None] * out.astype(jnp.float32), None

    total = jnp.zeros(levels.shape, jnp.float32)
    total, _ = jax.lax.scan(add, total, (keys.T, weights.T))
    mixed = jnp.clip(total, 0, 255).astype(jnp.uint8)
    return from_uint8(blend_with(levels, mixed, share), images)


def _any_depth(keys: Array) -> Int[Array, "b"]:
    """Draws 1, 2 or 3 for each key."""
    depth = jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 1), (), 1, 4))
    return depth(keys)

"""Stochastic depth, patch dropout and the initial value of LayerScale."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.typing import Array, Bool, Float, Int, PRNGKeyArray


def drop_path_rates(rate: float, depth: int, *, decay: str = "linear") -> list[float]:
    """Drop rate of each block: linspace(0, rate, depth), or `rate` everywhere.

    `decay` is "linear" (Huang et al., 2016, arXiv:1603.09382) or "constant" (DeiT III:
    Touvron et al., 2022, arXiv:2204.07118).
    """
    start = 0.0 if decay == "linear" else rate
    return np.linspace(start, rate, depth).tolist()


def scale_kept(
    x: Float[Array, "b *s"], mask: Bool[Array, "b"], keep: Float[Array, ""] | float
) -> Float[Array, "b *s"]:
    """Zeroes the samples that are dropped and rescales the others: x * mask / keep.

    With keep == 0 every sample is zero. Equivalent to the arithmetic of timm's
    `drop_path` for a given mask.
    """
    scale = jnp.where(mask, 1 / jnp.maximum(keep, 1e-6), 0.0).astype(x.dtype)
    return x * scale.reshape(-1, *(1,) * (x.ndim - 1))


def drop_path(
    key: PRNGKeyArray, x: Float[Array, "b *s"], rate: Float[Array, ""] | float
) -> Float[Array, "b *s"]:
    """Stochastic depth: x * m / (1 - rate), m ~ Bernoulli(1 - rate) for each sample.

    `rate` in [0, 1] may be traced.

    Source: Huang et al., 2016, arXiv:1603.09382.
    """
    keep = 1 - rate
    mask = jax.random.bernoulli(key, keep, (x.shape[0],))
    return scale_kept(x, mask, keep)


def kept_tokens(
    key: PRNGKeyArray, shape: tuple[int, int], rate: float, *, prefix: int = 1
) -> Int[Array, "b m"]:
    """Indices of the tokens that patch dropout keeps, for `shape` (b, n) patch tokens.

    For each sample, a random max(1, int((1 - rate) n)) of the n patches follow the
    `prefix` tokens, which are always kept. The patches are in random order; positions
    are already added, so the network does not depend on it.

    Source: Li et al., 2022 (FLIP), arXiv:2212.00794; timm's `PatchDropout`.
    """
    b, n = shape
    order = jnp.argsort(jax.random.uniform(key, shape), axis=1)
    kept = order[:, : max(1, int(n * (1 - rate)))] + prefix
    head = jnp.broadcast_to(jnp.arange(prefix, dtype=kept.dtype), (b, prefix))
    return jnp.concatenate([head, kept], axis=1)


def patch_dropout(
    key: PRNGKeyArray, x: Float[Array, "b n d"], rate: float, *, prefix: int = 1
) -> Float[Array, "b m d"]:
    """Drops patch tokens at random: returns the rows of x at `kept_tokens`."""
    shape = (x.shape[0], x.shape[1] - prefix)
    kept = kept_tokens(key, shape, rate, prefix=prefix)
    return jnp.take_along_axis(x, kept[:, :, None], axis=1)


def layer_scale_start(depth: int) -> float:
    """Initial LayerScale gain of CaiT for a network of `depth` blocks.

    0.1 up to 18 blocks, 1e-5 up to 24, and 1e-6 beyond: deeper networks start closer to
    the identity. The released models use 1e-5 for 24 blocks, and 1e-5 or 1e-6 for 36.

    Source: Touvron et al., 2021, arXiv:2103.17239, section 2.
    """
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6

"""Normalisation in at least float32."""

from functools import partial

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.gating import spread
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def _mean(
    x: Float[Array, "*s d"], weights: Float[Array, "*#s d"] | None = None
) -> Float[Array, "*s 1"]:
    """Mean over the last axis, weighted if weights are given; 0 if all of them are."""
    if weights is None:
        return x.mean(-1, keepdims=True)
    total = weights.sum(-1, keepdims=True)
    return (x * weights).sum(-1, keepdims=True) / jnp.where(total == 0, 1, total)


def _standardized(
    x: Float[Array, "*s d"], eps: float, weights: Float[Array, "*#s d"] | None = None
) -> tuple[Float[Array, "*s d"], Float[Array, "*s 1"]]:
    """(x - mean) r and r = 1 / sqrt(var + eps), with a two-pass variance."""
    x = x - _mean(x, weights)
    r = jax.lax.rsqrt(_mean(jnp.square(x), weights) + eps)
    return x * r, r


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def standardize(x: Float[Array, "*s d"], eps: float) -> Float[Array, "*s d"]:
    """(x - mean) / sqrt(var + eps) over the last axis, with the biased variance.

    With y = standardize(x), its derivative is dy = (dx - mean(dx) - y mean(y dx)) /
    sqrt(var + eps). Written out explicitly, it keeps only y for the backward pass. The
    order of the terms also matters: transposed, the full-sized term y mean(y dx) is
    added last. If a broadcast term came last, XLA on CPU would recompute the sum of all
    later blocks' gradients in every block that reads it (half the time of a DeiT-S
    training step).
    """
    return _standardized(x, eps)[0]


@standardize.defjvp
def _standardize_jvp(eps: float, primals: tuple, tangents: tuple) -> tuple:
    (x,), (dx,) = primals, tangents
    y, r = _standardized(x, eps)
    along = y * (y * dx).mean(-1, keepdims=True)
    return y, (dx - dx.mean(-1, keepdims=True) - along) * r


def layer_norm(
    x: Float[Array, "*s d"],
    scale: Float[Array, "d"],
    bias: Float[Array, "d"],
    *,
    eps: float,
    gate: Float[Array, "#b d"] | Float[Array, "d"] | None = None,
) -> Float[Array, "*s d"]:
    """Layer norm: (x - mean) / sqrt(var + eps) * scale + bias over the last axis.

    Computed and returned in at least float32, with a two-pass variance. With a `gate`,
    mean and variance are over the open channels alone, weighted by it, and the result
    is multiplied by it: the norm of the model without the closed channels.

    Source: Ba et al., 2016, arXiv:1607.06450.
    """
    wide = at_least_float32(x.dtype)
    rank = (*(1,) * (x.ndim - 1), -1)
    x, scale, bias = x.astype(wide), scale.astype(wide), bias.astype(wide)
    if gate is None:
        return standardize(x, eps) * scale.reshape(rank) + bias.reshape(rank)
    gate = spread(gate.astype(wide), x.ndim)
    y = _standardized(x, eps, gate)[0]
    return (y * scale.reshape(rank) + bias.reshape(rank)) * gate


def l2_normalize(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """Unit vectors along the last axis: x / max(|x|, 1e-12), in at least float32.

    The gradient at x = 0 is finite. Equivalent to torch's `F.normalize`.
    """
    x = x.astype(at_least_float32(x.dtype))
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def rms_norm(
    x: Float[Array, "*s d"],
    scale: Float[Array, "d"],
    *,
    eps: float,
    gate: Float[Array, "#b d"] | Float[Array, "d"] | None = None,
) -> Float[Array, "*s d"]:
    """RMS norm: x / sqrt(mean(x^2) + eps) * scale over the last axis.

    Computed and returned in at least float32; `gate` as in `layer_norm`.
    Source: Zhang and Sennrich, 2019, arXiv:1910.07467.
    """
    wide = at_least_float32(x.dtype)
    x = x.astype(wide)
    weights = None if gate is None else spread(gate.astype(wide), x.ndim)
    r = jax.lax.rsqrt(_mean(jnp.square(x), weights) + eps)
    y = x * r * scale.astype(wide).reshape(*(1,) * (x.ndim - 1), -1)
    return y if weights is None else y * weights

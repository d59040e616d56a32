"""Loss that holds the share of kept tokens at a target ratio."""

from collections.abc import Sequence

import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number, prepared
from vit_jax_tricks.typing import Array, Bool, Float


@checked
def keep_ratio(
    *,
    keep: Float[Array, "s b n"] | Bool[Array, "s b n"],
    ratios: Sequence[Number],
    per_batch: bool = False,
) -> Float[Array, "b"]:
    """Mean over s stages of (mean_n keep - ratio)^2.

    Args:
      keep: 1 for kept and 0 for dropped tokens, over all n tokens of the image.
      ratios: the share to keep in each stage, such as 0.7, 0.49, 0.343.
      per_batch: also averages over the batch before squaring, so that images may keep
        different shares; every example then gets the same loss.

    Equivalent, before weighting, to the ratio term of DynamicViT's
    DistillDiffPruningLoss_dynamic; `per_batch` is its `dynamic` (tested).

    Raises: UserError unless there is one ratio in [0, 1] for each stage.
    Source: Rao et al., 2021, arXiv:2106.02034.
    """
    if len(ratios) != len(keep) or not all(0 <= r <= 1 for r in ratios):
        raise UserError(
            f"ratios={tuple(ratios)}: expected {len(keep)} shares, one for each stage, "
            "in 0..1."
        )
    (keep,) = prepared(None, keep)
    kept = keep.mean(axis=-1)  # [s, b]
    if per_batch:
        kept = jnp.broadcast_to(kept.mean(axis=-1, keepdims=True), kept.shape)
    target = jnp.asarray(ratios, kept.dtype)[:, None]
    return jnp.square(kept - target).mean(axis=0)

"""Contrastive losses for b matching image-text pairs; all other pairs are negatives.

Each image is compared with each text of the batch. Under jit, a batch that is split
over devices gives the same loss as on one device; no manual gather is needed. Features
have unit length. Scales are passed after the exponential: exp(t) for a learned t.
"""

import jax
import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number, prepared
from vit_jax_tricks.typing import Array, Float


@checked
def clip_contrastive(
    *,
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    scale: Float[Array, ""] | Number,
    bias: Float[Array, ""] | Number = 0.0,
    smoothing: Number = 0.0,
) -> Float[Array, "b"]:
    """Symmetric softmax loss (CE(row i, i) + CE(column i, i)) / 2 of the pair logits.

    The logits are z = scale images texts^T + bias. Equivalent to open_clip's ClipLoss
    before its mean (tested). ALIGN's loss (Jia et al., 2021, arXiv:2102.05918) is twice
    this one, with smoothing 0.1.

    Raises: UserError for smoothing outside [0, 1).
    Source: Radford et al., 2021, arXiv:2103.00020.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing={smoothing}: expected 0 <= smoothing < 1.")
    z = _pair_logits(image_features, text_features, scale, bias)
    match = jnp.diagonal(z)

    def cross_entropy(axis: int) -> jax.Array:
        target = (1 - smoothing) * match + smoothing * z.mean(axis=axis)
        return jax.nn.logsumexp(z, axis=axis) - target

    return (cross_entropy(1) + cross_entropy(0)) / 2


@checked
def siglip_contrastive(
    *,
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    scale: Float[Array, ""] | Number,
    bias: Float[Array, ""] | Number,
) -> Float[Array, "b"]:
    """Sigmoid loss -sum_j log sigmoid(y_ij z_ij), with z as in `clip_contrastive`.

    y is 1 for a matching pair and -1 elsewhere; the sum is over the texts, for each
    image. Equivalent to open_clip's SigLipLoss before its mean over the batch (tested).

    Source: Zhai et al., 2023, arXiv:2303.15343.
    """
    z = _pair_logits(image_features, text_features, scale, bias)
    pair = jnp.eye(len(z), dtype=bool)
    return -jax.nn.log_sigmoid(jnp.where(pair, z, -z)).sum(axis=1)


def _pair_logits(
    images: Array, texts: Array, scale: Array | Number, bias: Array | Number
) -> jax.Array:
    images, texts = prepared(None, images, texts)
    scale, bias = (jnp.asarray(x).astype(images.dtype) for x in (scale, bias))
    z = jnp.einsum("id,jd->ij", images, texts, precision="highest")
    return scale * z + bias

"""Linear-time attention with positive random features."""

import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.typing import Array, Float


def positive_features(
    x: Float[Array, "b n d"], w: Float[Array, "m d"]
) -> Float[Array, "b n m"]:
    """Positive random features exp(w x - |x|^2 / 2) / sqrt(m), in at least float32.

    With rows of `w` drawn from N(0, 1), the features of q times the features of k
    estimate exp(q . k). The exponents are computed at the highest precision, because
    they are not shifted by their maximum.

    Source: Choromanski et al., 2020 (Performer), arXiv:2009.14794.
    """
    wide = at_least_float32(x.dtype)
    x, w = x.astype(wide), w.astype(wide)
    wx = jnp.einsum("bnd,md->bnm", x, w, precision=jax.lax.Precision.HIGHEST)
    half_norm = jnp.square(x).sum(-1, keepdims=True) / 2
    return jnp.exp(wx - half_norm) / w.shape[0] ** 0.5


def kernel_attention(
    q: Float[Array, "b n m"],
    k: Float[Array, "b n m"],
    v: Float[Array, "b n d"],
    *,
    eps: float = 1e-8,
) -> Float[Array, "b n d"]:
    """Linear attention sum_j (q_i . k_j) v_j / (sum_j q_i . k_j + eps).

    q and k are features, such as `positive_features`.

    The sums over j come first, so the cost is linear in n. Computed and returned in the
    dtype of q.

    Source: Choromanski et al., 2020 (Performer), arXiv:2009.14794; T2T-ViT's
    `single_attn`.
    """
    total = jnp.einsum("bnm,bm->bn", q, k.sum(1))
    values = jnp.einsum("bnd,bnm->bdm", v.astype(q.dtype), k)
    return jnp.einsum("bnm,bdm->bnd", q, values) / (total[..., None] + eps)

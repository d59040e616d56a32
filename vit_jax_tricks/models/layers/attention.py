"""Multi-head self-attention with one fused projection for q, k and v."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.typing import Array, Float


class Attention(nn.Module):
    """Self-attention: proj(attention(q, k, v)), (q, k, v) = qkv(x).

    Heads stay an axis of their own: `qkv/kernel` is [d, 3, g, h], `proj/kernel`
    [g, h, d], so that heads can be removed or spread over devices. `scale` multiplies
    q . k instead of h ** -0.5.
    Equivalent to timm's `Attention`.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    qk_norm: bool = False
    norm_eps: float = 1e-6
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    scale: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        dense = partial(
            nn.DenseGeneral,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        shape = (3, self.num_heads, self.head_dim)
        qkv = dense(shape, use_bias=self.qkv_bias, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            norm = partial(LayerNorm, self.norm_eps, self.dtype, self.param_dtype)
            q, k = norm(name="q_norm")(q), norm(name="k_norm")(k)
        drop = nn.Dropout(self.attn_drop, deterministic=not train)
        y = functional.attention(q, k, v, scale=self.scale, drop=drop)
        y = dense(x.shape[-1], axis=(-2, -1), name="proj")(y)
        return nn.Dropout(self.proj_drop, deterministic=not train)(y)

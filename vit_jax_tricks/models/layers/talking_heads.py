"""CaiT's attention layers: talking heads for patches, and class attention."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.typing import Array, Float


class TalkingHeadsAttention(nn.Module):
    """Self-attention proj(`functional.talking_heads_attention`(q, k, v)).

    (q, k, v) = qkv(x). `qkv/kernel` [d, 3, g, h], `proj/kernel` [g, h, d]; `proj_l` and
    `proj_w`, kernels [g, g], mix the heads before and after the softmax. The gate
    `heads` [g] also closes their part in what is mixed.

    Source: Touvron et al., 2021 (CaiT), arXiv:2103.17239; timm's `TalkingHeadAttn`.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    attn_drop: float = 0.0
    proj_drop: float = 0.0
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
        heads = gates.find(self, "heads", self.num_heads)
        before = MixHeads(self.param_dtype, name="proj_l")
        after = MixHeads(self.param_dtype, name="proj_w")
        y = functional.talking_heads_attention(
            qkv[:, :, 0],
            qkv[:, :, 1],
            qkv[:, :, 2],
            before=lambda logits: before(functional.gated(logits, heads, after=2)),
            after=lambda weights: after(functional.gated(weights, heads, after=2)),
            drop=nn.Dropout(self.attn_drop, deterministic=not train),
        )
        y = functional.gated(y, heads, after=1)
        y = dense(x.shape[-1], axis=(-2, -1), name="proj")(y)
        return nn.Dropout(self.proj_drop, deterministic=not train)(y)


class MixHeads(nn.Module):
    """`functional.mix_heads` with a learned square `kernel` and `bias`."""

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b g n m"]) -> Float[Array, "b g n m"]:
        g = x.shape[1]
        init, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        kernel = self.param("kernel", init, (g, g), self.param_dtype)
        bias = self.param("bias", zeros, (g,), self.param_dtype)
        return functional.mix_heads(x, kernel, bias)


class ClassAttention(nn.Module):
    """The first token attends to all: proj(attention(q(x_0), k(x), v(x))), [b, 1, d].

    `q`, `k` and `v` have kernels [d, g, h], `proj/kernel` is [g, h, d]. With
    `fused_kv`, one `kv/kernel` [d, 2, g, h] replaces k and v, as in VOLO.

    Source: Touvron et al., 2021 (CaiT), arXiv:2103.17239; timm's `ClassAttn` and the
    `ClassAttention` of its volo.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    fused_kv: bool = False
    attn_drop: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], train: bool = False
    ) -> Float[Array, "b 1 d"]:
        dense = partial(
            nn.DenseGeneral,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        shape = (self.num_heads, self.head_dim)
        heads = partial(dense, shape, use_bias=self.qkv_bias)
        q = heads(name="q")(x[:, :1])
        if self.fused_kv:
            kv = dense((2, *shape), use_bias=self.qkv_bias, name="kv")(x)
            k, v = kv[:, :, 0], kv[:, :, 1]
        else:
            k, v = heads(name="k")(x), heads(name="v")(x)
        drop = nn.Dropout(self.attn_drop, deterministic=not train)
        y = functional.attention(q, k, v, drop=drop)
        y = functional.gated(y, gates.find(self, "heads", self.num_heads), after=1)
        return dense(x.shape[-1], axis=(-2, -1), name="proj")(y)

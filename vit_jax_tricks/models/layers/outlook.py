"""Outlook attention: each token predicts the attention weights of its own window."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.functional.patches import fold, unfold
from vit_jax_tricks.models.layers.functional.pooling import avg_pool
from vit_jax_tricks.typing import Array, Float


class OutlookAttention(nn.Module):
    """Outlook attention proj(fold(softmax(attn(pool(x)) / sqrt(h)) unfold(v(x)))).

    Every `stride`-th token, averaged over its stride x stride cell, gives for each head
    a k^2 x k^2 attention among the k x k values around it; the outputs of the windows
    overlap and are summed. `v/kernel` is [d, g, h], `attn/kernel` [d, g, k^4],
    `proj/kernel` [g, h, d]. Equivalent to timm's `OutlookAttention`.

    Source: Yuan et al., 2021 (VOLO), arXiv:2106.13112.
    """

    num_heads: int
    head_dim: int
    kernel_size: int = 3
    stride: int = 2
    qkv_bias: bool = False
    attn_drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w d"], train: bool
    ) -> Float[Array, "b h w d"]:
        dense = partial(
            nn.DenseGeneral,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        g, k, s = self.num_heads, self.kernel_size, self.stride
        area, window = k * k, {"stride": s, "padding": k // 2}
        v = dense((g, self.head_dim), use_bias=self.qkv_bias, name="v")(x)
        v = unfold(v.reshape(*v.shape[:3], -1), k, **window)
        v = rearrange(v, "b i j (g h m) -> b i j g m h", g=g, m=area)
        _, h, w, d = x.shape
        pads = ((0, -h % s), (0, -w % s))
        logits = dense((g, area**2), name="attn")(avg_pool(x, s, s, pads))
        logits = logits.reshape(*logits.shape[:-1], area, area)
        logits = logits.astype(functional.at_least_float32(self.dtype))
        weights = jax.nn.softmax(logits * self.head_dim**-0.5, axis=-1)
        weights = nn.Dropout(self.attn_drop, deterministic=not train)(weights)
        y = jnp.einsum("bijgkm,bijgmh->bijghk", weights.astype(v.dtype), v)
        y = fold(y.reshape(*y.shape[:3], -1), k, (h, w), **window)
        y = y.reshape(*y.shape[:3], g, self.head_dim)
        y = functional.gated(y, gates.find(self, "heads", g), after=1)
        return dense(d, axis=(-2, -1), name="proj")(y)

"""Transformer block with attention and MLP in parallel."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates, initializers
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.norm import NORMS, LayerScale
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class ParallelScalingBlock(nn.Module):
    """x + drop(gamma * (proj_a(attention(q, k, v)) + proj_m(act(m)))).

    One product gives (m, q, k, v) = in_proj(in_norm(x)); without `qkv_bias` only m has
    a bias, `mlp_bias`. `in_proj/kernel` is [d, m + 3d]. `gamma` exists if `init_values`
    is given; `out_gain` multiplies the initial kernels of the output projections.
    Equivalent to timm's `ParallelScalingBlock`.

    Source: Dehghani et al., 2023 (ViT-22B), arXiv:2302.05442.
    """

    num_heads: int
    head_dim: int
    mlp_hidden: int
    qkv_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = None
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_layer: str = "gelu"
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    proj_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
        bias: Float[Array, "#b #g n n"] | None = None,
        rope: Float[Array, "#b n #g e"] | None = None,
        out_gain: Float[Array, ""] | float | None = None,
        key_bias: Float[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        m, heads = self.mlp_hidden, (self.num_heads, self.head_dim)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(NORMS[self.norm_layer], self.norm_eps, **dtypes)
        dense = partial(nn.DenseGeneral, **dtypes)
        drop = partial(nn.Dropout, deterministic=not train)
        width = m + 3 * self.num_heads * self.head_dim
        channels, depth = gates.find(self, "width", d), gates.find(self, "depth")
        y = norm(name="in_norm")(x, channels)
        inits = initializers.vit(d)
        y = dense(width, use_bias=self.qkv_bias, name="in_proj", **inits)(y)
        y, qkv = y[..., :m], y[..., m:].reshape(b, n, 3, *heads)
        if not self.qkv_bias:
            zeros = nn.initializers.zeros
            mlp_bias = self.param("mlp_bias", zeros, (m,), self.param_dtype)
            y = y + mlp_bias.astype(self.dtype)[None, None]
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            q, k = norm(name="q_norm")(q), norm(name="k_norm")(k)
        if rope is not None:
            q, k = functional.rotate(q, rope), functional.rotate(k, rope)
        weights = drop(self.attn_drop_rate)
        bias = functional.with_key_bias(bias, key_bias)
        z = functional.attention(q, k, v, bias=bias, drop=weights)
        z = functional.gated(z, gates.find(self, "heads", self.num_heads), after=1)
        y = functional.ACTIVATIONS[self.act_layer](y)
        y = functional.gated(y, gates.find(self, "hidden", m))
        y = drop(self.proj_drop_rate)(y)
        inits = initializers.scaled(initializers.vit(d), out_gain)
        project = partial(dense, d, use_bias=self.proj_bias, **inits)
        y = project(axis=(-2, -1), name="attn_out_proj")(z) + project(
            name="mlp_out_proj"
        )(y)
        if self.init_values is not None:
            y = LayerScale(self.init_values, name="ls", **dtypes)(y)
        y = functional.gated(functional.gated(y, channels), depth, units=0)
        return constrain(x + DropPath()(y, drop_path))

"""Attention pooling of tokens."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.typing import Array, Float


class AttentionPool(nn.Module):
    """SigLIP's MAP head: a learned query attends to all tokens, then y + mlp(norm(y)).

    y = proj(attention(q(latent), k, v)), (k, v) = kv(x). `latent` [1, 1, d], `q/kernel`
    [d, g, h], `kv/kernel` [d, 2, g, h], `proj/kernel` [g, h, d]. Equivalent to timm's
    `AttentionPoolLatent`.

    Source: Zhai et al., 2021, arXiv:2106.04560 (appendix), after Lee et al., 2018,
    arXiv:1810.00825.
    """

    num_heads: int
    mlp_hidden: int
    act: str = "gelu"
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b d"]:
        b, _, d = x.shape
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(
            nn.DenseGeneral, kernel_init=nn.initializers.normal(0.02), **dtypes
        )
        heads = (self.num_heads, d // self.num_heads)
        init = nn.initializers.truncated_normal(d**-0.5)
        latent = self.param("latent", init, (1, 1, d), self.param_dtype)
        latent = jnp.broadcast_to(latent.astype(self.dtype), (b, 1, d))
        q = dense(heads, name="q")(latent)
        kv = dense((2, *heads), name="kv")(x)
        y = functional.attention(q, kv[:, :, 0], kv[:, :, 1])
        y = dense(d, axis=(-2, -1), name="proj")(y)
        z = NORMS[self.norm_layer](self.norm_eps, name="norm", **dtypes)(y)
        y = y + Mlp(self.mlp_hidden, self.act, name="mlp", **dtypes)(z, train)
        return y[:, 0]

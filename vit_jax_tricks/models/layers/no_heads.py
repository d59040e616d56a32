"""Replacement for an attention layer whose heads have all been removed."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Float


class NoHeads(nn.Module):
    """Output of an attention without heads: proj's bias for every token, or zeros."""

    features: int
    use_bias: bool = True
    drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], train: bool) -> Float[Array, "*b f"]:
        y = jnp.zeros((*x.shape[:-1], self.features), self.dtype)
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = jnp.broadcast_to(bias.astype(self.dtype), y.shape)
        return nn.Dropout(self.drop, deterministic=not train)(y)

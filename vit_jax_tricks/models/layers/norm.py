"""Layer norm and LayerScale with parameters."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


class LayerNorm(nn.Module):
    """`functional.layer_norm` with learned `scale` and `bias`, returned in `dtype`."""

    eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        return functional.layer_norm(x, scale, bias, eps=self.eps).astype(self.dtype)


class LayerScale(nn.Module):
    """A learned gain per channel: x * gamma, gamma starting at `value`.

    Source: Touvron et al. 2021 (CaiT), arXiv 2103.17239.
    """

    value: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        init = nn.initializers.constant(self.value)
        gamma = self.param("gamma", init, x.shape[-1:], self.param_dtype)
        return x * gamma.astype(self.dtype)[None, None]

"""Norms and LayerScale with learned parameters."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


class LayerNorm(nn.Module):
    """`functional.layer_norm` with learned `scale` and `bias`, returned in `dtype`.

    `gate` leaves channels out of the statistics and of the result. `scale` is
    initialised to `start`; with 0, a residual branch that ends in this norm starts at
    zero.
    """

    eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    start: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*s d"],
        gate: Float[Array, "#b d"] | Float[Array, "d"] | None = None,
    ) -> Float[Array, "*s d"]:
        shape = x.shape[-1:]
        start = nn.initializers.constant(self.start)
        scale = self.param("scale", start, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        y = functional.layer_norm(x, scale, bias, eps=self.eps, gate=gate)
        return y.astype(self.dtype)


class RmsNorm(nn.Module):
    """`functional.rms_norm` with a learned `scale`, initialised to `start`.

    `gate` as in `LayerNorm`.
    """

    eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    start: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*s d"],
        gate: Float[Array, "#b d"] | Float[Array, "d"] | None = None,
    ) -> Float[Array, "*s d"]:
        start = nn.initializers.constant(self.start)
        scale = self.param("scale", start, x.shape[-1:], self.param_dtype)
        y = functional.rms_norm(x, scale, eps=self.eps, gate=gate)
        return y.astype(self.dtype)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RmsNorm}


class LayerScale(nn.Module):
    """Learned gain per channel: x * gamma, with gamma initialised to `value`.

    Source: Touvron et al., 2021 (CaiT), arXiv:2103.17239.
    """

    value: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        init = nn.initializers.constant(self.value)
        gamma = self.param("gamma", init, x.shape[-1:], self.param_dtype)
        return x * gamma.astype(self.dtype).reshape(*(1,) * (x.ndim - 1), -1)

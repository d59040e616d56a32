"""Squeeze-and-excitation: gates each channel by the mean of the map."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.typing import Array, Float


class SqueezeExcite(nn.Module):
    """Channel gate x * sigmoid(fc2(act(fc1(mean of x over the map)))).

    Equivalent to timm's `SEModule`.

    Source: Hu et al., 2018, arXiv:1709.01507.
    """

    hidden: int
    act: str = "silu"
    weight_init: str = "vit_eff"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        def dense(name: str, features: int, fan_in: int) -> nn.Dense:
            return nn.Dense(
                features,
                **initializers.conv(self.weight_init, fan_in),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )

        y = dense("fc1", self.hidden, x.shape[-1])(x.mean((1, 2)))
        y = functional.ACTIVATIONS[self.act](y)
        y = dense("fc2", x.shape[-1], self.hidden)(y)
        return x * jax.nn.sigmoid(y)[:, None, None]

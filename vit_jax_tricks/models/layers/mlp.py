"""The two-layer perceptron of a transformer block."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


class Mlp(nn.Module):
    """fc2(act(fc1(x))), dropout after the activation and after fc2, as timm's `Mlp`."""

    hidden: int
    act: str = "gelu"
    drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        dense = partial(
            nn.Dense,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        drop = partial(nn.Dropout, self.drop, deterministic=not train)
        y = functional.ACTIVATIONS[self.act](dense(self.hidden, name="fc1")(x))
        y = dense(x.shape[-1], name="fc2")(drop()(y))
        return drop()(y)

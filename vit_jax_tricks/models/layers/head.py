"""Linear classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.typing import Array, Float


class Classifier(nn.Module):
    """Linear head dropout(x) @ kernel + bias, in at least float32.

    `kernel` [d, k], `bias` [k]. With num_classes 0 it returns the features.
    """

    num_classes: int
    drop_rate: float = 0.0
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    inits: Callable[[int], initializers.Inits] = initializers.vit

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"], train: bool) -> Float[Array, "*s k"]:
        wide = functional.at_least_float32(self.dtype)
        x = nn.Dropout(self.drop_rate, deterministic=not train)(x)
        if not self.num_classes:
            return x.astype(wide)
        shape = (x.shape[-1], self.num_classes)
        inits = self.inits(x.shape[-1])
        kernel = self.param("kernel", inits["kernel_init"], shape, self.param_dtype)
        logits = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias_init = inits["bias_init"]
            bias = self.param("bias", bias_init, shape[1:], self.param_dtype)
            rank = (*(1,) * (x.ndim - 1), -1)
            logits = logits + bias.astype(self.dtype).reshape(rank)
        return logits.astype(wide)

"""Batch norm over all axes but the last, with PyTorch's running statistics."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.typing import Array, Float


class BatchNorm(nn.Module):
    """Batch norm: (x - mean) / sqrt(var + eps) * scale + bias, per channel.

    In training, mean and variance are those of the batch, and `batch_stats` moves
    towards them by 1 - `momentum` (with the unbiased variance, as in PyTorch; Flax uses
    the biased one). Under jit with a sharded batch, they cover the whole batch.
    Computed in at least float32, returned in `dtype`.

    Source: Ioffe and Szegedy, 2015, arXiv:1502.03167.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"], train: bool) -> Float[Array, "*s c"]:
        wide = functional.at_least_float32(self.dtype)
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        stats = functional.at_least_float32(self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stats)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, stats)
        x = x.astype(wide)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            if not self.is_initializing():
                n = math.prod(x.shape[:-1])
                unbiased = var * (n / max(n - 1, 1))
                for old, new in ((running_mean, mean), (running_var, unbiased)):
                    keep = self.momentum * old.value
                    old.value = keep + (1 - self.momentum) * new.astype(stats)
        else:
            mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        gain = scale.astype(wide) * jax.lax.rsqrt(var + self.eps)
        rank = (*(1,) * (x.ndim - 1), -1)
        x = (x - mean.reshape(rank)) * gain.reshape(rank)
        return (x + bias.astype(wide).reshape(rank)).astype(self.dtype)

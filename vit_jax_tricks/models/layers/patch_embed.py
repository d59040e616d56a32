"""Stems: linear patch embedding and the hierarchical MLP stem."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.batch_norm import BatchNorm
from vit_jax_tricks.typing import Array, Float


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchConv(nn.Module):
    """Convolution with stride = kernel size; `kernel` [p, p, c, d], `bias` [d]."""

    features: int
    patch_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        p, c = self.patch_size, x.shape[-1]
        init = torch_uniform(p * p * c)
        shape = (p, p, c, self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        y = functional.patch_embed(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


class PatchEmbed(nn.Module):
    """Embeds non-overlapping patches as tokens, row-major.

    Source: Dosovitskiy et al., 2020, arXiv:2010.11929; timm's `PatchEmbed`.
    """

    embed_dim: int
    patch_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b n d"]:
        del train
        y = PatchConv(
            self.embed_dim,
            self.patch_size,
            self.use_bias,
            self.dtype,
            self.param_dtype,
            name="proj",
        )(x)
        return y.reshape(y.shape[0], -1, y.shape[-1])


class HierarchicalStem(nn.Module):
    """hMLP stem: 4x4, 2x2 and 2x2 patch convolutions with batch norm, GELU between.

    Patches do not interact, so it also suits masked pre-training.

    Source: Touvron et al., 2022 (three things), arXiv:2203.09795; `hMLP_stem` of
    facebookresearch/deit.
    """

    embed_dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b n d"]:
        narrow = self.embed_dim // 4
        for i, (size, width) in enumerate(
            [(4, narrow), (2, narrow), (2, self.embed_dim)]
        ):
            if i:
                x = jax.nn.gelu(x, approximate=False)
            x = PatchConv(
                width,
                size,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"conv{i}",
            )(x)
            x = BatchNorm(
                dtype=self.dtype, param_dtype=self.param_dtype, name=f"norm{i}"
            )(x, train)
        return x.reshape(x.shape[0], -1, x.shape[-1])

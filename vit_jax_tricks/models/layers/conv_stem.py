"""LV-ViT's convolutional stem: three convolutions before the patch embedding."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers.batch_norm import BatchNorm
from vit_jax_tricks.models.layers.conv import conv2d
from vit_jax_tricks.models.layers.patch_embed import PatchConv, torch_uniform
from vit_jax_tricks.typing import Array, Float


class ConvStem(nn.Module):
    """Convolutions 7x7 (stride 2), 3x3, 3x3 with batch norm and ReLU; then patches.

    The patches of the halved map have half the size. Returns a map [b, i, j, d].

    Source: Jiang et al., 2021, arXiv:2104.10858; `PatchEmbed4_2` (`width` 64) and
    `PatchEmbed4_2_128` of TokenLabeling.
    """

    embed_dim: int
    patch_size: int
    width: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(conv2d, self.width, use_bias=False, **dtypes)
        for i, (size, stride) in enumerate([(7, 2), (3, 1), (3, 1)], start=1):
            init = torch_uniform(size * size * x.shape[-1])
            x = conv(size, stride=stride, kernel_init=init, name=f"conv{i}")(x)
            x = jax.nn.relu(BatchNorm(name=f"bn{i}", **dtypes)(x, train))
        return PatchConv(self.embed_dim, self.patch_size // 2, name="proj", **dtypes)(x)

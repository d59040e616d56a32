"""ConvNeXt block: a large depthwise convolution, layer norm and an MLP."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import initializers
from vit_jax_tricks.models.layers.conv import Shortcut, conv2d, norm2d
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.functional import pooling
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerScale
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class ConvNeXt(nn.Module):
    """ConvNeXt block: shortcut(x) + drop_path(gamma * mlp(norm(depthwise 7x7(x)))).

    A block that halves the map does so in the convolution, or by pooling before it
    (`stride_mode`); its shortcut averages 2x2 cells and widens. Fields are those of
    timm's `MaxxVitConvCfg`; the initialisation is PyTorch's default. Equivalent to the
    `ConvNeXtBlock` of timm's maxxvit.

    Source: Liu et al., 2022, arXiv:2201.03545.
    """

    features: int
    halve: bool = False
    expand_ratio: float = 4.0
    output_bias: bool = True
    stride_mode: str = "dw"
    downsample_pool_type: str = "avg2"
    init_values: float | None = 1e-6
    act_layer: str = "gelu"
    norm_layer: str = "layernorm2d"
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
    ) -> Float[Array, "b i j d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shortcut, width = x, x.shape[-1]
        if self.halve:
            shortcut = Shortcut(
                self.features,
                inits=partial(initializers.conv, ""),
                name="shortcut",
                **dtypes,
            )(x)
        if self.halve and self.stride_mode == "pool":
            x = pooling.downsample(x, self.downsample_pool_type)
        x = conv2d(
            self.features,
            7,
            stride=2 if self.halve and self.stride_mode == "dw" else 1,
            groups=width,
            use_bias=self.output_bias,
            name="conv_dw",
            **initializers.conv("", 7 * 7),
            **dtypes,
        )(x)
        x = norm2d(self.norm_layer, self.norm_eps, name="norm", **dtypes)(x, train)
        x = Mlp(
            int(self.expand_ratio * self.features),
            self.act_layer,
            use_bias=self.output_bias,
            inits=partial(initializers.linear, ""),
            name="mlp",
            **dtypes,
        )(x, train)
        if self.init_values:
            x = LayerScale(self.init_values, name="ls", **dtypes)(x)
        return constrain(DropPath()(x, drop_path) + shortcut)

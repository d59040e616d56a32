"""Inverted bottleneck: CoAtNet's convolution block, after MobileNet V2."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.conv import Shortcut, conv2d, norm2d
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.functional import pooling
from vit_jax_tricks.models.layers.squeeze_excite import SqueezeExcite
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


STRIDE_MODES = ("dw", "pool", "1x1")


def round_channels(width: float, *, least_share: float = 0.9) -> int:
    """Rounds `width` to the nearest multiple of 8, but up if that loses too much.

    It rounds up if the nearest multiple is below `least_share` of `width`. Equivalent
    to timm's `make_divisible`.
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < least_share * width else rounded


class MBConv(nn.Module):
    """shortcut(x) + drop_path(project(act(norm2(depthwise(expand(pre_norm(x))))))).

    pre_norm (and an activation if `pre_norm_act`) -> 1x1 to `expand_ratio` times the
    output or input width -> norm, activation -> kxk in groups of `group_size` channels
    (0: one group) -> norm, activation -> squeeze-and-excite (before this norm if
    `attn_early`) -> 1x1. A block that halves the map does so in the kxk convolution, in
    the first 1x1, or by pooling before it (`stride_mode`); its shortcut pools and
    widens. Fields are those of timm's `MaxxVitConvCfg`. Equivalent to timm's
    `MbConvBlock`.

    Sources: Dai et al., 2021 (CoAtNet), arXiv:2106.04803; Sandler et al., 2018,
    arXiv:1801.04381.
    """

    features: int
    halve: bool = False
    expand_ratio: float = 4.0
    expand_output: bool = True
    kernel_size: int = 3
    group_size: int = 1
    pre_norm_act: bool = False
    output_bias: bool = True
    stride_mode: str = "dw"
    pool_type: str = "avg2"
    downsample_pool_type: str = "avg2"
    padding: str = ""
    attn_early: bool = False
    attn_layer: str = "se"
    attn_act_layer: str = "silu"
    attn_ratio: float = 0.25
    act_layer: str = "gelu"
    norm_layer: str = "batchnorm2d"
    norm_eps: float = 1e-5
    weight_init: str = "vit_eff"
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
        act = functional.ACTIVATIONS[self.act_layer]
        norm = partial(norm2d, self.norm_layer, self.norm_eps, **dtypes)
        width = self.features if self.expand_output else x.shape[-1]
        mid = round_channels(width * self.expand_ratio)

        def pointwise(name: str, features: int, fan_in: int, bias: bool) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=bias,
                **initializers.conv(self.weight_init, fan_in),
                name=name,
                **dtypes,
            )

        y = norm(name="pre_norm")(x, train)
        y = act(y) if self.pre_norm_act else y
        if self.halve and self.stride_mode == "pool":
            y = pooling.downsample(
                y, self.downsample_pool_type, same=self.padding == "same"
            )
        elif self.halve and self.stride_mode == "1x1":
            y = y[:, ::2, ::2]
        y = pointwise("conv1_1x1", mid, x.shape[-1], bias=False)(y)
        y = act(norm(name="norm1")(y, train))
        groups = mid // self.group_size if self.group_size else 1
        y = conv2d(
            mid,
            self.kernel_size,
            stride=2 if self.halve and self.stride_mode == "dw" else 1,
            groups=groups,
            padding=self.padding,
            use_bias=False,
            name="conv2_kxk",
            **initializers.conv(
                self.weight_init, self.kernel_size**2 * mid // groups, groups=groups
            ),
            **dtypes,
        )(y)
        y = self._gate(y, "se_early") if self.attn_early else y
        y = act(norm(name="norm2")(y, train))
        y = y if self.attn_early else self._gate(y, "se")
        y = pointwise("conv3_1x1", self.features, mid, bias=self.output_bias)(y)
        return constrain(DropPath()(y, drop_path) + self._shortcut(x))

    def _gate(self, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
        """Squeeze-and-excite, if `attn_layer` enables it."""
        if not self.attn_layer:
            return x
        width = x.shape[-1]
        base = self.features if self.expand_output else width
        hidden = int(self.attn_ratio * base)
        return SqueezeExcite(
            hidden or round_channels(width / 16, least_share=0.0),
            self.attn_act_layer,
            self.weight_init,
            self.dtype,
            self.param_dtype,
            name=name,
        )(x)

    def _shortcut(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        if not self.halve:
            return x
        return Shortcut(
            self.features,
            self.pool_type,
            self.padding,
            self.output_bias,
            partial(initializers.conv, self.weight_init),
            self.dtype,
            self.param_dtype,
            name="shortcut",
        )(x)

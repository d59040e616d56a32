"""Convolutions, norms and downsampling of feature maps [b, h, w, c]."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import initializers
from vit_jax_tricks.models.layers.batch_norm import BatchNorm
from vit_jax_tricks.models.layers.functional import pooling
from vit_jax_tricks.models.layers.functional.depthwise import grouped_conv
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.typing import Array, Float


NORMS = {"batchnorm2d": BatchNorm, "layernorm2d": LayerNorm}
PADDINGS = ("", "same")


def conv2d(
    features: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: str = "",
    use_bias: bool = True,
    **rest: Any,
) -> nn.Conv:
    """Convolution; `padding` "" is symmetric as in PyTorch, "same" is TensorFlow's.

    On even maps with stride 2, "same" pads only at the end.
    """
    pad = (stride - 1 + kernel_size - 1) // 2
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=stride,
        padding="SAME" if padding == "same" else pad,
        feature_group_count=groups,
        use_bias=use_bias,
        conv_general_dilated=grouped_conv if groups > 1 else None,
        **rest,
    )


def norm2d(kind: str, eps: float, **rest: Any) -> Callable[[Array, bool], Array]:
    """Batch norm, or layer norm over channels; both are called as `norm(x, train)`."""
    norm = NORMS[kind](eps=eps, **rest)
    return norm if kind == "batchnorm2d" else lambda x, train: norm(x)


class Shortcut(nn.Module):
    """Shortcut of a block that halves the map: pooling, then a linear layer.

    The linear layer `expand` exists only if the width changes. Equivalent to timm's
    `Downsample2d`.
    """

    features: int
    pool_type: str = "avg2"
    padding: str = ""
    use_bias: bool = True
    inits: Callable[[int], initializers.Inits] = initializers.vit
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = pooling.downsample(x, self.pool_type, same=self.padding == "same")
        if self.features == x.shape[-1]:
            return y
        return nn.Dense(
            self.features,
            use_bias=self.use_bias,
            **self.inits(x.shape[-1]),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="expand",
        )(y)

"""VOLO's blocks: outlooker, class block and downsampling."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerNorm, LayerScale
from vit_jax_tricks.models.layers.outlook import OutlookAttention
from vit_jax_tricks.models.layers.patch_embed import PatchConv
from vit_jax_tricks.models.layers.talking_heads import ClassAttention
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


EPS = 1e-5  # epsilon of every layer norm


def scaled(block: Any, part: int, y: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """Applies LayerScale to a branch of a compact block, if it has `init_values`."""
    if block.init_values is None:
        return y
    dtypes = {"dtype": block.dtype, "param_dtype": block.param_dtype}
    return LayerScale(block.init_values, name=f"ls{part}", parent=block, **dtypes)(y)


class Outlooker(nn.Module):
    """x <- x + drop(outlook(norm1(x))); x <- x + drop(mlp(norm2(x))), on maps.

    Equivalent to timm's `Outlooker`.

    Source: Yuan et al., 2021, arXiv:2106.13112.
    """

    num_heads: int
    head_dim: int
    mlp_hidden: int
    qkv_bias: bool = False
    init_values: float | None = None
    attn_drop_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
    ) -> Float[Array, "b h w d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attn = OutlookAttention(
            self.num_heads,
            self.head_dim,
            qkv_bias=self.qkv_bias,
            attn_drop=self.attn_drop_rate,
            name="attn",
            **dtypes,
        )
        y = attn(LayerNorm(EPS, name="norm1", **dtypes)(x), train)
        x = constrain(x + DropPath()(scaled(self, 1, y), drop_path))
        mlp = Mlp(self.mlp_hidden, name="mlp", **dtypes)
        y = mlp(LayerNorm(EPS, name="norm2", **dtypes)(x), train)
        return constrain(x + DropPath()(scaled(self, 2, y), drop_path))


class ClassBlock(nn.Module):
    """The class token attends to all tokens, then passes an MLP; other tokens stay.

    Equivalent to timm's `ClassBlock`.

    Source: Yuan et al., 2021, arXiv:2106.13112.
    """

    num_heads: int
    head_dim: int
    mlp_hidden: int
    qkv_bias: bool = False
    init_values: float | None = None
    attn_drop_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], drop_path: None, train: bool
    ) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attn = ClassAttention(
            self.num_heads,
            self.head_dim,
            self.qkv_bias,
            fused_kv=True,
            attn_drop=self.attn_drop_rate,
            name="attn",
            **dtypes,
        )
        y = attn(LayerNorm(EPS, name="norm1", **dtypes)(x), train)
        token = x[:, :1] + scaled(self, 1, y)
        mlp = Mlp(self.mlp_hidden, name="mlp", **dtypes)
        y = mlp(LayerNorm(EPS, name="norm2", **dtypes)(token), train)
        token = token + scaled(self, 2, y)
        return constrain(jnp.concatenate([token, x[:, 1:]], axis=1))


class Downsample(nn.Module):
    """Embeds the 2x2 patches of a map by `proj`. Equivalent to VOLO's in timm."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return PatchConv(self.features, 2, name="proj", **dtypes)(x)

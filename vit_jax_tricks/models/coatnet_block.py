"""CoAtNet's transformer block, on feature maps."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import initializers
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.conv import Shortcut, norm2d
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.functional import pooling
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerScale
from vit_jax_tricks.models.layers.relative_bias import RelativeBias
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class NormPool(nn.Module):
    """pool(norm(x)) of a block that halves the map, with the norm named `norm`."""

    norm_layer: str
    norm_eps: float
    pool_type: str
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = norm2d(self.norm_layer, self.norm_eps, name="norm", **dtypes)
        return pooling.downsample(norm(x, train), self.pool_type)


class TransformerBlock2d(nn.Module):
    """x <- shortcut(x) + drop(attn(norm1(x))); x <- x + drop(mlp(norm2(x))).

    In a block that halves the map, the shortcut pools and widens, and the same pooling
    follows norm1. Heads have `dim_head` channels. q, k and v have the output width
    (`expand_first`) or the input width, in which case the projection widens. LayerScale
    is used if `init_values` is given. Fields are those of timm's
    `MaxxVitTransformerCfg`. Equivalent to timm's `TransformerBlock2d`.

    Source: Dai et al., 2021 (CoAtNet), arXiv:2106.04803.
    """

    features: int
    halve: bool = False
    dim_head: int = 32
    expand_ratio: float = 4.0
    expand_first: bool = True
    shortcut_bias: bool = True
    attn_bias: bool = True
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    pool_type: str = "avg2"
    rel_pos_type: str = "bias"
    rel_pos_dim: int = 512
    rel_pos_drop: float = 0.125
    init_values: float | None = None
    act_layer: str = "gelu"
    norm_layer: str = "layernorm2d"
    norm_eps: float = 1e-6
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
        norm = partial(norm2d, self.norm_layer, self.norm_eps, **dtypes)
        inits = partial(initializers.linear, self.weight_init)
        shortcut, norm1 = x, norm
        if self.halve:
            shortcut = Shortcut(
                self.features,
                self.pool_type,
                use_bias=self.shortcut_bias,
                inits=inits,
                name="shortcut",
                **dtypes,
            )(x)
            norm1 = partial(
                NormPool, self.norm_layer, self.norm_eps, self.pool_type, **dtypes
            )
        mlp = Mlp(
            int(self.features * self.expand_ratio),
            self.act_layer,
            self.proj_drop,
            out_drop=0.0,
            inits=partial(inits, mlp=True),
            name="mlp",
            **dtypes,
        )

        def branch(part: int, y: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
            if self.init_values:
                y = LayerScale(self.init_values, name=f"ls{part}", **dtypes)(y)
            return DropPath()(y, drop_path)

        y = norm1(name="norm1")(x, train)
        b, h, w, width = y.shape
        rel_pos = partial(
            RelativeBias,
            (h, w),
            self.rel_pos_type,
            hidden=self.rel_pos_dim,
            hidden_drop=self.rel_pos_drop,
            inits=partial(inits, mlp=True),
        )
        y = Attention(
            (self.features if self.expand_first else width) // self.dim_head,
            self.dim_head,
            self.attn_bias,
            proj_bias=self.attn_bias,
            attn_drop=self.attn_drop,
            proj_drop=self.proj_drop,
            rel_pos=rel_pos if self.rel_pos_type else None,
            inits=inits,
            features=self.features,
            name="attn",
            **dtypes,
        )(y.reshape(b, h * w, width), train)
        x = constrain(shortcut + branch(1, y.reshape(b, h, w, -1)))
        y = mlp(norm(name="norm2")(x, train), train)
        return constrain(x + branch(2, y))

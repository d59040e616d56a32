"""The pre-norm transformer block, with optional parallel branches."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerNorm, LayerScale
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class Block(nn.Module):
    """x + attention branches, then x + MLP branches.

    x <- x + sum_j drop(gamma1_j * attn_j(norm1_j(x)));
    x <- x + sum_j drop(gamma2_j * mlp_j(norm2_j(x))), j < parallel.
    `gamma` exists if `init_values` is given. Branch j > 0 has parameters named with a
    suffix `_j`. Sources: Dosovitskiy et al. 2020, arXiv 2010.11929; parallel branches
    Touvron et al. 2022, arXiv 2203.09795 (`Layer_scale_init_Block_paralx2` of
    facebookresearch/deit).
    """

    num_heads: int
    head_dim: int
    mlp_hidden: int
    qkv_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = None
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_layer: str = "gelu"
    norm_eps: float = 1e-6
    parallel: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
    ) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attn = partial(
            Attention,
            self.num_heads,
            self.head_dim,
            self.qkv_bias,
            self.qk_norm,
            self.norm_eps,
            self.attn_drop_rate,
            self.proj_drop_rate,
            **dtypes,
        )
        mlp = partial(
            Mlp, self.mlp_hidden, self.act_layer, self.proj_drop_rate, **dtypes
        )
        for part, (layer, name) in enumerate([(attn, "attn"), (mlp, "mlp")], start=1):
            branches = []
            for j in range(self.parallel):
                end = f"_{j}" if j else ""
                y = LayerNorm(self.norm_eps, name=f"norm{part}{end}", **dtypes)(x)
                y = layer(name=f"{name}{end}")(y, train)
                if self.init_values is not None:
                    y = LayerScale(self.init_values, name=f"ls{part}{end}", **dtypes)(y)
                branches.append(DropPath()(y, drop_path))
            x = constrain(sum(branches, start=x))
        return x

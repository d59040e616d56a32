"""Transformer block with attention and an MLP, each behind or before a norm."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import NORMS, LayerScale
from vit_jax_tricks.models.stack import refuse_unless_taken
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float


class Block(nn.Module):
    """Transformer block: x + attention branches, then x + MLP branches.

    x <- x + sum_j drop(gamma1_j * attn_j(norm1_j(x)));
    x <- x + sum_j drop(gamma2_j * mlp_j(norm2_j(x))), j < parallel.

    `gamma` exists if `init_values` is given. The parameters of branch j > 0 have the
    suffix `_j`. `skip_lam` divides every branch (LV-ViT: Jiang et al., 2021,
    arXiv:2104.10858); `qk_scale` replaces h ** -0.5. `kind` "tr" has both parts; "mha"
    has only the attention and "ffn" only the MLP, on norm(skip_lam * x), as LV-ViT's
    `MHABlock` and `FFNBlock`. `attn_layer` replaces `Attention` and must have the
    fields num_heads, head_dim, qkv_bias, attn_drop, proj_drop and dtypes; `mlp_layer`
    replaces `Mlp` and must have the fields hidden, act, drop and dtypes. `post_norm`
    moves each norm behind its branch, as timm's `ResPostBlock` does; `init_values` is
    then the norm's initial scale. `bias` and `rope` are passed to the attention, and
    `key_bias` is added to the bias of each key; `out_gain` multiplies the initial
    kernel at the end of either branch. The gates `width` [d] and `depth` [] are
    those of `layers.gates`.

    Sources: Dosovitskiy et al., 2020, arXiv:2010.11929; parallel branches: Touvron et
    al., 2022, arXiv:2203.09795 (`Layer_scale_init_Block_paralx2` of
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
    qk_scale: float | None = None
    skip_lam: float = 1.0
    kind: str = "tr"
    attn_layer: Callable[..., nn.Module] | None = None
    mlp_layer: Callable[..., nn.Module] | None = None
    norm_layer: str = "layernorm"
    post_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
        bias: Float[Array, "#b #g n n"] | None = None,
        rope: Float[Array, "#b n #g e"] | None = None,
        out_gain: Float[Array, ""] | float | None = None,
        key_bias: Float[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attn_layer = self.attn_layer or partial(
            Attention,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            scale=self.qk_scale,
        )
        attn = partial(
            attn_layer,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            qkv_bias=self.qkv_bias,
            attn_drop=self.attn_drop_rate,
            proj_drop=self.proj_drop_rate,
            **dtypes,
        )
        mlp = partial(
            self.mlp_layer or Mlp,
            hidden=self.mlp_hidden,
            act=self.act_layer,
            drop=self.proj_drop_rate,
            **dtypes,
        )
        norm = partial(NORMS[self.norm_layer], self.norm_eps, **dtypes)
        start = 1.0 if self.init_values is None else self.init_values
        gain = {} if out_gain is None else {"out_gain": out_gain}
        given = {"bias": functional.with_key_bias(bias, key_bias), "rope": rope}
        for key, y in given.items():
            if y is not None:
                refuse_unless_taken(attn, key)
        given = gain | {key: y for key, y in given.items() if y is not None}
        parts = {"mha": [(1, attn, "attn")], "ffn": [(2, mlp, "mlp")]}
        parts["tr"] = parts["mha"] + parts["ffn"]
        width, depth = gates.find(self, "width", x.shape[-1]), gates.find(self, "depth")
        for part, layer, name in parts[self.kind]:
            branches = []
            for j in range(self.parallel):
                end = f"_{j}" if j else ""
                y = x if self.kind == "tr" else x * self.skip_lam
                if not self.post_norm:
                    y = norm(name=f"norm{part}{end}")(y, width)
                extra = given if name == "attn" else gain
                y = layer(name=f"{name}{end}")(y, train, **extra)
                if self.post_norm:
                    y = norm(name=f"norm{part}{end}", start=start)(y, width)
                elif self.init_values is not None:
                    y = LayerScale(self.init_values, name=f"ls{part}{end}", **dtypes)(y)
                y = functional.gated(functional.gated(y, width), depth, units=0)
                branches.append(DropPath()(y, drop_path) / self.skip_lam)
            x = constrain(sum(branches, start=x))
        return x

"""The pre-norm transformer block, and a stack of blocks, scanned or not."""

from collections.abc import Callable, Mapping, Sequence
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
    suffix `_j`. `skip_lam` divides every branch (LV-ViT: Jiang et al. 2021, arXiv
    2104.10858); `qk_scale` replaces h ** -0.5. `kind` "mha" or "ffn" leaves the
    attention or the MLP alone, on norm(skip_lam * x), as LV-ViT's `MHABlock` and
    `FFNBlock`; "tr" is both. `attn_layer` makes another layer than `Attention`, of the
    same fields num_heads, head_dim, qkv_bias, attn_drop, proj_drop and dtypes.
    Sources: Dosovitskiy et al. 2020, arXiv 2010.11929; parallel branches Touvron et al.
    2022, arXiv 2203.09795 (`Layer_scale_init_Block_paralx2` of facebookresearch/deit).
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
            Mlp, self.mlp_hidden, self.act_layer, self.proj_drop_rate, **dtypes
        )
        parts = {"mha": [(1, attn, "attn")], "ffn": [(2, mlp, "mlp")]}
        parts["tr"] = parts["mha"] + parts["ffn"]
        for part, layer, name in parts[self.kind]:
            branches = []
            for j in range(self.parallel):
                end = f"_{j}" if j else ""
                y = x if self.kind == "tr" else x * self.skip_lam
                y = LayerNorm(self.norm_eps, name=f"norm{part}{end}", **dtypes)(y)
                y = layer(name=f"{name}{end}")(y, train)
                if self.init_values is not None:
                    y = LayerScale(self.init_values, name=f"ls{part}{end}", **dtypes)(y)
                branches.append(DropPath()(y, drop_path) / self.skip_lam)
            x = constrain(sum(branches, start=x))
        return x


def run_blocks(
    layers: Sequence[Mapping[str, Any]],
    x: Float[Array, "b n d"],
    rates: Sequence[float],
    train: bool,
    *,
    scan: bool,
    remat: bool,
    start: int = 0,
) -> Float[Array, "b n d"]:
    """Applies a `Block` with each layer's fields and drop path rate in turn.

    To be called by a compact module. `scan` traces the equal layers from the first on
    once, their parameters stacked under `blocks`; the others are `blocks_0`, ..., the
    numbers beginning at `start` (only a stack from 0 is scanned).
    `remat` recomputes each block in the backward pass.
    """
    block = Block
    if remat:
        block = nn.remat(Block, prevent_cse=not scan, static_argnums=(3,))
    drops = train and any(rates)
    run = 0
    if scan and layers and not start:
        run = next((i for i, f in enumerate(layers) if f != layers[0]), len(layers))
        scanned = nn.scan(
            lambda module, x, rate: (module(x, rate, train), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=run,
        )
        stacked = jnp.asarray(rates[:run], jnp.float32) if drops else None
        x = scanned(block(name="blocks", **layers[0]), x, stacked)[0]
    for i in range(run, len(layers)):
        rate = rates[i] if drops else None
        x = block(name=f"blocks_{start + i}", **layers[i])(x, rate, train)
    return x

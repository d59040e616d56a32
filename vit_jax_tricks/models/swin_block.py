"""Parts of a Swin Transformer: window attention, block and patch merging."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.drop import DropPath
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.no_heads import NoHeads
from vit_jax_tricks.models.layers.norm import LayerNorm, LayerScale
from vit_jax_tricks.models.layers.patch_embed import PatchConv
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Bool, Float


class PatchGrid(nn.Module):
    """Map of patch embeddings: a convolution `proj` with stride = size, then `norm`.

    `norm_eps=None` omits the norm.
    """

    embed_dim: int
    patch_size: int
    norm_eps: float | None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchConv(self.embed_dim, self.patch_size, name="proj", **dtypes)(x)
        if self.norm_eps is None:
            return x
        return LayerNorm(self.norm_eps, name="norm", **dtypes)(x)


class PatchMerging(nn.Module):
    """Halves a map: stacks 2x2 neighbours in the channels, then norm and `reduction`.

    `reduction` is linear. `norm_last` applies the norm to its result instead, as Swin
    V2 does. Equivalent to timm's two `PatchMerging` classes.

    Source: Liu et al., 2021 (Swin), arXiv:2103.14030.
    """

    features: int
    norm_eps: float
    norm_last: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = LayerNorm(self.norm_eps, name="norm", **dtypes)
        init = nn.initializers.normal(0.02)
        reduction = nn.Dense(
            self.features, use_bias=False, kernel_init=init, name="reduction", **dtypes
        )
        x = functional.merge_neighbours(x)
        return norm(reduction(x)) if self.norm_last else reduction(norm(x))


class WindowedAttention(nn.Module):
    """Base of self-attention in windows; a subclass adds `operands`.

    softmax(scale q k^T + bias + mask) v for each head, then the projection `proj`,
    whose kernel is [g, h, d].
    """

    num_heads: int
    head_dim: int
    window: tuple[int, int]
    qkv_bias: bool = True
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def operands(
        self, x: Float[Array, "b m n d"], dense: Callable[..., nn.Module]
    ) -> tuple[Array, Array, Array, float | None, Float[Array, "g n n"]]:
        """Returns q, k and v [b, m, n, g, h], the scale and the bias of the logits.

        `dense` builds the linear layers.
        """
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b m n d"],
        mask: Float[Array, "m n n"] | None,
        train: bool,
        key_bias: Float[Array, "b m n"] | None = None,
    ) -> Float[Array, "b m n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if not self.num_heads:
            proj = NoHeads(x.shape[-1], drop=self.proj_drop, name="proj", **dtypes)
            return proj(x, train)
        init = nn.initializers.normal(0.02)
        dense = partial(nn.DenseGeneral, kernel_init=init, **dtypes)
        q, k, v, scale, bias = self.operands(x, dense)
        y = functional.attention(
            q,
            k,
            v,
            scale=scale,
            bias=functional.masked_bias(bias, mask, key_bias),
            drop=nn.Dropout(self.attn_drop, deterministic=not train),
        )
        y = functional.gated(y, gates.find(self, "heads", self.num_heads), after=1)
        y = dense(x.shape[-1], axis=(-2, -1), name="proj")(y)
        return nn.Dropout(self.proj_drop, deterministic=not train)(y)


class WindowAttention(WindowedAttention):
    """Self-attention in windows, with a table of relative position biases.

    softmax(scale q k^T + table[query - key] + mask) v, for each head. `qkv/kernel` is
    [d, 3, g, h], `relative_position_bias_table` [(2p - 1)(2q - 1), g] for a window (p,
    q). `scale` defaults to h ** -0.5. Equivalent to timm's
    `WindowAttention`.

    Source: Liu et al., 2021, arXiv:2103.14030.
    """

    scale: float | None = None

    def operands(
        self, x: Float[Array, "b m n d"], dense: Callable[..., nn.Module]
    ) -> tuple[Array, Array, Array, float | None, Float[Array, "g n n"]]:
        """Returns q, k and v of one product, the scale and the bias from the table."""
        rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.normal(0.02),
            (rows, self.num_heads),
            self.param_dtype,
        ).astype(functional.at_least_float32(self.dtype))
        index = functional.relative_position_index(self.window)
        bias = functional.relative_bias(table, index)
        shape = (3, self.num_heads, self.head_dim)
        qkv = dense(shape, use_bias=self.qkv_bias, name="qkv")(x)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        return q, k, v, self.scale, bias


class SwinBlock(nn.Module):
    """Attention in (shifted) windows, then an MLP, each with a residual connection.

    x <- x + drop(attn(norm1(x))); x <- x + drop(mlp(norm2(x))). With `post_norm` the
    norm ends the branch, x + drop(norm(attn(x))), and its initial gain is `init_values`
    or 0, as in Swin V2; otherwise `init_values` adds LayerScale. `attention` builds the
    layer, which is called as (windows, mask, train, key_bias). The windows move by
    `shift` if `shifted`; the argument, which may be traced, replaces the field.
    `key_bias` is added to the attention logits of each key.

    Sources: Liu et al., 2021 (Swin), arXiv:2103.14030; Liu et al., 2021 (Swin V2),
    arXiv:2111.09883.
    """

    attention: Callable[..., nn.Module]
    window: tuple[int, int]
    shift: tuple[int, int]
    mlp_hidden: int
    post_norm: bool
    shifted: bool = False
    init_values: float | None = None
    proj_drop_rate: float = 0.0
    act_layer: str = "gelu"
    norm_eps: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        drop_path: Float[Array, ""] | float | None,
        train: bool,
        shifted: Bool[Array, ""] | None = None,
        key_bias: Float[Array, "b h w"] | None = None,
    ) -> Float[Array, "b h w d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = self.attention(name="attn")
        mlp = Mlp(
            self.mlp_hidden, self.act_layer, self.proj_drop_rate, name="mlp", **dtypes
        )

        def attn(x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
            def attend(windows: Array, mask: Array | None) -> Array:
                if key_bias is None:
                    return attention(windows, mask, train)
                return attention(windows[..., :-1], mask, train, windows[..., -1])

            if key_bias is not None:  # partitioned into windows as the features are
                keys = key_bias[..., None].astype(x.dtype)
                x = jnp.concatenate([x, keys], axis=-1)
            return functional.over_windows(
                attend,
                x,
                window=self.window,
                shift=self.shift,
                shifted=self.shifted if shifted is None else shifted,
            )

        start = (self.init_values or 0.0) if self.post_norm else 1.0
        depth = gates.find(self, "depth")
        for i, layer in enumerate((attn, partial(mlp, train=train)), start=1):
            norm = LayerNorm(self.norm_eps, start=start, name=f"norm{i}", **dtypes)
            y = norm(layer(x)) if self.post_norm else layer(norm(x))
            if self.init_values is not None and not self.post_norm:
                y = LayerScale(self.init_values, name=f"ls{i}", **dtypes)(y)
            y = functional.gated(y, depth, units=0)
            x = constrain(x + DropPath()(y, drop_path))
        return x

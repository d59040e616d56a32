"""T2T-ViT's stem: overlapping windows become tokens, attend, and are split again."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.layers.functional.attention import (
    kernel_attention,
    positive_features,
)
from vit_jax_tricks.models.layers.functional.patches import unfold
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import LayerNorm
from vit_jax_tricks.models.layers.patch_embed import torch_uniform
from vit_jax_tricks.typing import Array, Float


EPS = 1e-5  # epsilon of every layer norm
DROP = 0.1  # dropout of the performer, in training

# Size, stride and padding of the three soft splits.
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
linear_init = nn.initializers.normal(0.02)


class TokenPerformer(nn.Module):
    """Kernel attention and an MLP on tokens whose width differs from the output's.

    y = v + drop(proj(kernel_attention(phi(q), phi(k), v))), (k, q, v) = kqv(norm1(x));
    y + drop(mlp_2(gelu(mlp_0(norm2(y))))). The skip connection is v, because x has
    another width. `kqv/kernel` is [f, 3, d]. The d / 2 random features `w` [d / 2, d]
    are fixed, so they are stored in `batch_stats`.

    Source: `Token_performer` of T2T-ViT.
    """

    dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"], train: bool) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(nn.DenseGeneral, kernel_init=linear_init, **dtypes)
        drop = partial(nn.Dropout, DROP, deterministic=not train)
        features = self.dim // 2
        w = self.variable(
            "batch_stats",
            "w",
            lambda: nn.initializers.orthogonal(features**0.5)(
                self.make_rng("params"),
                (features, self.dim),
                functional.at_least_float32(self.param_dtype),
            ),
        ).value
        kqv = dense((3, self.dim), name="kqv")(
            LayerNorm(EPS, name="norm1", **dtypes)(x)
        )
        k, q, v = kqv[:, :, 0], kqv[:, :, 1], kqv[:, :, 2]
        y = kernel_attention(positive_features(q, w), positive_features(k, w), v)
        y = v + drop()(dense(self.dim, name="proj")(y.astype(self.dtype)))
        z = LayerNorm(EPS, name="norm2", **dtypes)(y)
        z = functional.ACTIVATIONS["gelu"](dense(self.dim, name="mlp_0")(z))
        return y + drop()(dense(self.dim, name="mlp_2")(z))


class TokenAttention(nn.Module):
    """One-head attention that changes the width: v + proj(attention).

    The scale is f ** -0.5 for input width f, not d ** -0.5. `qkv/kernel` is [f, 3, 1,
    d], `proj/kernel` [1, d, d].

    Source: `Attention` of T2T-ViT's `token_transformer`.
    """

    dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"]) -> Float[Array, "b n d"]:
        dense = partial(
            nn.DenseGeneral,
            kernel_init=linear_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        qkv = dense((3, 1, self.dim), use_bias=False, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        y = functional.attention(q, k, v, scale=x.shape[-1] ** -0.5)
        return v[:, :, 0] + dense(self.dim, axis=(-2, -1), name="proj")(y)


class TokenTransformer(nn.Module):
    """y = `TokenAttention`(norm1(x)), then y + mlp(norm2(y)).

    Source: `Token_transformer` of T2T-ViT.
    """

    dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f"], train: bool) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = LayerNorm(EPS, name="norm1", **dtypes)(x)
        x = TokenAttention(self.dim, name="attn", **dtypes)(x)
        y = LayerNorm(EPS, name="norm2", **dtypes)(x)
        return x + Mlp(self.dim, name="mlp", **dtypes)(y, train)


TOKENS = {"performer": TokenPerformer, "transformer": TokenTransformer}


class TokensToToken(nn.Module):
    """Soft split 7/4, attention, soft split 3/2, attention, soft split 3/2, linear.

    Images [b, h, w, c] become [b, h w / 256, d]. `tokens_type` is "performer" or
    "transformer" (the kind of attention), or "convolution" for three plain convolutions
    instead.

    Source: Yuan et al., 2021, arXiv:2101.11986; `T2T_module` of
    yitu-opensource/T2T-ViT.
    """

    embed_dim: int
    token_dim: int
    tokens_type: str
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = x.astype(self.dtype)
        if self.tokens_type == "convolution":
            names = ("soft_split0", "soft_split1", "project")
            widths = (self.token_dim, self.token_dim, self.embed_dim)
            for name, width, split in zip(names, widths, SPLITS, strict=True):
                x = _conv(x, width, split, name, dtypes)
            return x.reshape(x.shape[0], -1, self.embed_dim)
        layer = partial(TOKENS[self.tokens_type], self.token_dim, **dtypes)
        for i, (size, stride, padding) in enumerate(SPLITS, start=1):
            x = unfold(x, size, stride=stride, padding=padding)
            b, h, w, f = x.shape
            x = x.reshape(b, h * w, f)
            if i < len(SPLITS):
                x = layer(name=f"attention{i}")(x, train)
                x = x.reshape(b, h, w, self.token_dim)
        dense = nn.Dense(
            self.embed_dim, kernel_init=linear_init, name="project", **dtypes
        )
        return dense(x)


def _conv(
    x: Float[Array, "b h w c"],
    width: int,
    split: tuple[int, int, int],
    name: str,
    dtypes: dict[str, Any],
) -> jax.Array:
    size, stride, padding = split
    init = torch_uniform(size * size * x.shape[-1])
    return nn.Conv(
        width,
        (size, size),
        stride,
        padding,
        kernel_init=init,
        bias_init=init,
        name=name,
        **dtypes,
    )(x)

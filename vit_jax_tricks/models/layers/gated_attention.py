"""Gated positional self-attention, which starts out as a convolution."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates
from vit_jax_tricks.models.layers.no_heads import NoHeads
from vit_jax_tricks.typing import Array, Float


class GatedPositionalAttention(nn.Module):
    """Self-attention proj(weights v) with `functional.gated_position_weights`.

    `qk/kernel` [d, 2, g, h], `v/kernel` [d, g, h], `proj/kernel` [g, h, d];
    `pos_proj/kernel` [3, g] scores the offsets on `grid`, and `gating_param` [g] is the
    gate before its sigmoid. Initially v is the identity, every gate is 1, and each head
    looks at one neighbour; a larger `locality_strength` narrows its focus. The `prefix`
    leading tokens are not on the grid.

    Source: d'Ascoli et al., 2021 (ConViT), arXiv:2103.10697; `GPSA` of
    facebookresearch/convit.
    """

    num_heads: int
    head_dim: int
    grid: tuple[int, int]
    qkv_bias: bool = False
    locality_strength: float = 1.0
    scale: float | None = None
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    prefix: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        dense = partial(
            nn.DenseGeneral,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        if not self.num_heads:
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            proj = NoHeads(x.shape[-1], drop=self.proj_drop, name="proj", **dtypes)
            return proj(x, train)
        heads = (self.num_heads, self.head_dim)
        qk = dense((2, *heads), use_bias=self.qkv_bias, name="qk")(x)
        v = dense(heads, use_bias=self.qkv_bias, kernel_init=identity_kernel, name="v")(
            x
        )
        scores = PositionScores(
            self.num_heads,
            self.grid,
            self.locality_strength,
            self.param_dtype,
            name="pos_proj",
        )()
        ones = nn.initializers.ones
        gate = self.param("gating_param", ones, heads[:1], self.param_dtype)
        weights = functional.gated_position_weights(
            qk[:, :, 0],
            qk[:, :, 1],
            scores,
            gate,
            scale=self.scale,
            prefix=self.prefix,
        )
        weights = nn.Dropout(self.attn_drop, deterministic=not train)(weights)
        y = jnp.einsum("bgnm,bmgh->bngh", weights.astype(v.dtype), v)
        y = functional.gated(y, gates.find(self, "heads", self.num_heads), after=1)
        y = dense(x.shape[-1], axis=(-2, -1), name="proj")(y)
        return nn.Dropout(self.proj_drop, deterministic=not train)(y)


class PositionScores(nn.Module):
    """`functional.position_scores` for all pairs of tokens on a grid, [g, n, n]."""

    num_heads: int
    grid: tuple[int, int]
    locality_strength: float = 1.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, "g n n"]:
        def init(key, shape, dtype):
            local = functional.local_kernel(self.num_heads, self.locality_strength)
            spare = 0.02 * self.locality_strength  # heads beyond a square number
            kernel = spare * jax.random.normal(key, shape, dtype)
            return kernel.at[:, : local.shape[1]].set(local.astype(dtype))

        kernel = self.param("kernel", init, (3, self.num_heads), self.param_dtype)
        zeros = nn.initializers.zeros
        bias = self.param("bias", zeros, (self.num_heads,), self.param_dtype)
        return functional.position_scores(
            functional.rel_indices(self.grid), kernel, bias
        )


def identity_kernel(key, shape, dtype=jnp.float32):
    """Initialiser: the identity from the first axis to the remaining axes together.

    With fewer heads than the width needs, it is the first columns of the identity.
    """
    del key
    return jnp.eye(shape[0], math.prod(shape[1:]), dtype=dtype).reshape(shape)

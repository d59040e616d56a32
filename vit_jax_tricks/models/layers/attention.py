"""Multi-head self-attention, with variants of its projections and positions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models.layers import functional, gates, initializers
from vit_jax_tricks.models.layers.no_heads import NoHeads
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.typing import Array, Float


# One kernel for q, k and v, or three; "qv" omits k's bias, which softmax cancels.
QKV = ("fused", "fused_qv", "separate", "separate_qv")


class Attention(nn.Module):
    """Self-attention: proj(attention(q, k, v)), (q, k, v) = qkv(x).

    Heads stay a separate axis, so that they can be pruned or sharded: `qkv/kernel` is
    [d, 3, g, h], `proj/kernel` [g, h, d]. `scale` replaces the factor h ** -0.5 of q .
    k. `qkv` is one of `QKV`: "fused_qv" has `q_bias` and `v_bias` [g, h] beside the
    fused kernel (BEiT, EVA-02), "separate" has `q_proj`, `k_proj` and `v_proj`.
    `scale_norm` normalises all heads together before proj. Equivalent to timm's
    `Attention`, and with a table `rope` to `AttentionRope` and `EvaAttention`.

    `rel_pos` builds a module that maps (q, k, scale, train) to a bias of the logits;
    `bias` is added to it. `rel_values` builds one that maps the weights to an addition
    to the output. `rope` is `functional.rotary_table` of all tokens; `out_gain`
    multiplies the initial kernel of proj. `features` is the output width if it differs
    from the input's. Without heads, the output is the bias of proj. The gate `heads`
    [g] is that of `layers.gates`.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    qk_norm: bool = False
    norm_eps: float = 1e-6
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    scale: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    qkv: str = "fused"
    scale_norm: bool = False
    proj_bias: bool = True
    norm_layer: str = "layernorm"
    rotate_half: bool = False
    rel_pos: Callable[..., nn.Module] | None = None
    rel_values: Callable[..., nn.Module] | None = None
    inits: Callable[[int], initializers.Inits] = initializers.vit
    features: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        train: bool,
        bias: Float[Array, "#b #g n n"] | None = None,
        rope: Float[Array, "#b n #g e"] | None = None,
        out_gain: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "b n f"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(NORMS[self.norm_layer], self.norm_eps, **dtypes)
        heads = {"num_heads": self.num_heads, **dtypes}
        shape = (self.num_heads, self.head_dim)
        if not self.num_heads:
            ends = (self.features or x.shape[-1], self.proj_bias, self.proj_drop)
            return NoHeads(*ends, name="proj", **dtypes)(x, train)
        q, k, v = self._project(x)
        if self.qk_norm:
            q, k = norm(name="q_norm")(q), norm(name="k_norm")(k)
        if rope is not None:
            rotate = partial(functional.rotate, half=self.rotate_half)
            q, k = rotate(q, rope), rotate(k, rope)
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        if self.rel_pos is not None:
            rel_pos = self.rel_pos(name="rel_pos", **heads)
            own = rel_pos(q, k, scale, train)
            bias = own if bias is None else bias + own
        drop = nn.Dropout(self.attn_drop, deterministic=not train)
        if self.rel_values is None:
            y = functional.attention(q, k, v, scale=scale, bias=bias, drop=drop)
        else:
            weights = drop(functional.attention_weights(q, k, scale=scale, bias=bias))
            weights = weights.astype(v.dtype)
            rel_values = self.rel_values(
                head_dim=self.head_dim, name="rel_values", **heads
            )
            y = jnp.einsum("bgnm,bmgh->bngh", weights, v) + rel_values(weights)
        open_heads = gates.find(self, "heads", self.num_heads)
        y = functional.gated(y, open_heads, after=1)
        if self.scale_norm:
            if open_heads is not None:
                open_heads = jnp.repeat(open_heads, self.head_dim, axis=-1)
            y = y.reshape(*x.shape[:2], -1)
            y = norm(name="norm")(y, open_heads).reshape(*x.shape[:2], *shape)
        y = nn.DenseGeneral(
            self.features or x.shape[-1],
            axis=(-2, -1),
            use_bias=self.proj_bias,
            name="proj",
            **initializers.scaled(self.inits(y.shape[-2] * y.shape[-1]), out_gain),
            **dtypes,
        )(y)
        return nn.Dropout(self.proj_drop, deterministic=not train)(y)

    def _project(self, x: Float[Array, "b n d"]) -> list[Float[Array, "b n g h"]]:
        """Projects x to q, k and v."""
        dense = partial(
            nn.DenseGeneral,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **self.inits(x.shape[-1]),
        )
        shape = (self.num_heads, self.head_dim)
        no_key_bias = self.qkv.endswith("_qv")
        if self.qkv.startswith("separate"):
            biased = {"q": True, "k": not no_key_bias, "v": True}
            return [
                dense(shape, use_bias=self.qkv_bias and use, name=f"{name}_proj")(x)
                for name, use in biased.items()
            ]
        use_bias = self.qkv_bias and not no_key_bias
        qkv = dense((3, *shape), use_bias=use_bias, name="qkv")(x)
        parts = [qkv[:, :, i] for i in range(3)]
        if self.qkv_bias and no_key_bias:
            for i, name in ((0, "q_bias"), (2, "v_bias")):
                value = self.param(name, nn.initializers.zeros, shape, self.param_dtype)
                parts[i] = parts[i] + value.astype(self.dtype)[None, None]
        return parts

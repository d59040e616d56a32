"""Swin Transformer V2: post-norm, cosine attention and an MLP for position biases."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers import functional
from vit_jax_tricks.models.swin import (
    SIZES,
    WindowedTransformer,
    check_stage_heads,
    register_swin,
    window_of,
)
from vit_jax_tricks.models.swin_block import WindowedAttention
from vit_jax_tricks.param_names import GENERAL
from vit_jax_tricks.typing import Array, Float


class PositionNetwork(nn.Module):
    """Bias of each head, 16 sigmoid(MLP(log-spaced offset)), for r offsets.

    `fc1` with bias, ReLU, `fc2` without bias.

    Source: Liu et al., 2021 (Swin V2), arXiv:2111.09883; `cpb_mlp` of
    microsoft/Swin-Transformer.
    """

    num_heads: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coords: Float[Array, "r 2"]) -> Float[Array, "r g"]:
        dense = partial(
            nn.Dense,
            kernel_init=nn.initializers.normal(0.02),
            dtype=functional.at_least_float32(self.dtype),
            param_dtype=self.param_dtype,
        )
        hidden = nn.relu(dense(512, name="fc1")(coords))
        bias = dense(self.num_heads, use_bias=False, name="fc2")(hidden)
        return 16 * nn.sigmoid(bias)


class CosineWindowAttention(WindowedAttention):
    """Self-attention in windows by the cosine of queries and keys.

    softmax(exp(min(logit_scale, ln 100)) cos(q, k) + bias(query - key) + mask) v, for
    each head; keys have no bias. `pretrained` is the pre-training window, which scales
    the offsets, or 0 if it is the present window. `logit_scale` [g], `q_bias` and
    `v_bias` [g, h]. Equivalent to timm's `WindowAttention` of Swin V2.

    Source: Liu et al., 2021 (Swin V2), arXiv:2111.09883.
    """

    pretrained: tuple[int, int] = (0, 0)

    def operands(
        self, x: Float[Array, "b m n d"], dense: Callable[..., nn.Module]
    ) -> tuple[Array, Array, Array, float | None, Float[Array, "g n n"]]:
        """Returns q, a unit vector times its scale, k, v, 1, and the MLP's bias."""
        wide = functional.at_least_float32(self.dtype)
        heads = (self.num_heads, self.head_dim)
        qkv = dense((3, *heads), use_bias=False, name="qkv")(x)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        if self.qkv_bias:
            zeros = nn.initializers.zeros
            q_bias = self.param("q_bias", zeros, heads, self.param_dtype)
            v_bias = self.param("v_bias", zeros, heads, self.param_dtype)
            q = q + q_bias.astype(self.dtype)[None, None, None]
            v = v + v_bias.astype(self.dtype)[None, None, None]

        start = nn.initializers.constant(math.log(10))
        scale = self.param("logit_scale", start, heads[:1], self.param_dtype)
        scale = jnp.exp(jnp.minimum(scale.astype(wide), math.log(100)))
        q = functional.l2_normalize(q) * scale[None, None, None, :, None]
        k = functional.l2_normalize(k)

        coords = functional.log_spaced_coords(self.window, pretrained=self.pretrained)
        table = PositionNetwork(
            self.num_heads, self.dtype, self.param_dtype, name="cpb_mlp"
        )(jnp.asarray(coords.reshape(-1, 2), wide))
        index = functional.relative_position_index(self.window)
        bias = functional.relative_bias(table, index)
        return q.astype(self.dtype), k.astype(self.dtype), v, 1.0, bias


class SwinTransformerV2(WindowedTransformer):
    """Swin V2: norms at the end of the residual branches, and cosine attention.

    `pretrained_window_sizes` holds the pre-training window of each stage, 0 where it is
    the present one. Equivalent to timm's `SwinTransformerV2` and, with
    `square_windows`, to that of microsoft/Swin-Transformer.

    Source: Liu et al., 2021, arXiv:2111.09883.
    """

    pretrained_window_sizes: tuple[int, ...] | tuple[tuple[int, int], ...] = ()

    key_names = "vit_jax_tricks.pretrained.swin_rules:SWIN_V2"
    post_norm = True
    # The position network of each attention.
    roles = GENERAL.also(no_decay=(r".*/cpb_mlp/.*",), in_float=("cpb_mlp",))

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        super().check()
        check_stage_heads(self)
        sizes = self.pretrained_window_sizes
        if sizes and len(sizes) < len(self.depths):
            raise UserError(
                f"pretrained_window_sizes={sizes} has {len(sizes)} entries for "
                f"{len(self.depths)} stages; give one for each stage."
            )

    def attention(self, stage: int) -> Callable[..., nn.Module]:
        """Factory of the attention layer of a stage's blocks."""
        heads = self.num_heads[stage]
        sizes = self.pretrained_window_sizes
        size = sizes[stage] if sizes else 0
        return partial(
            CosineWindowAttention,
            num_heads=heads,
            head_dim=(self.embed_dim << stage) // heads,
            window=self.windows(stage)[0],
            pretrained=(size, size) if isinstance(size, int) else size,
            qkv_bias=self.qkv_bias,
            attn_drop=self.attn_drop_rate,
            proj_drop=self.proj_drop_rate,
            **self.dtypes,
        )


# Counts: timm 1.0.31. Top-1: as for Swin.
SWIN_V2 = {
    "swinv2_tiny_window8_256": (28_347_154, 81.8),
    "swinv2_tiny_window16_256": (28_347_154, 82.8),
    "swinv2_small_window8_256": (49_728_418, 83.7),
    "swinv2_small_window16_256": (49_728_418, 84.1),
    "swinv2_base_window8_256": (87_918_816, 84.2),
    "swinv2_base_window16_256": (87_918_816, 84.6),
    "swinv2_base_window12to16_192to256": (87_918_816, 86.2),
    "swinv2_base_window12to24_192to384": (87_918_816, 87.1),
    "swinv2_large_window12to16_192to256": (196_739_932, 86.9),
    "swinv2_large_window12to24_192to384": (196_739_932, 87.6),
}
# Pre-trained on ImageNet-22k, with a head of its 21,841 classes.
SWIN_V2_22K = {
    "swinv2_base_window12_192": 109_280_841,
    "swinv2_large_window12_192": 228_772_549,
}


def _v2_fields(name: str) -> dict[str, Any]:
    fields = SIZES[name.split("_")[1]] | {"window_size": window_of(name)}
    if "12to" in name:  # the last map of pre-training was smaller than its window
        fields["pretrained_window_sizes"] = (12, 12, 12, 6)
    return fields


for _name, (_count, _top1) in SWIN_V2.items():
    _full = _name == "swinv2_tiny_window8_256"
    _golden = f"models_full/timm_{_name}" if _full else "models_small/small_swinv2"
    _fields = _v2_fields(_name)
    register_swin(_name, SwinTransformerV2, _count, _golden, _fields, top1=_top1)
for _name, _count in SWIN_V2_22K.items():
    _golden, _fields = "models_small/small_swinv2", _v2_fields(_name)
    register_swin(_name, SwinTransformerV2, _count, _golden, _fields, classes=21_841)

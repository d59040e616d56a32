"""Builds the blocks of a `VisionTransformer` from its fields, and pools its tokens."""

from functools import partial
from typing import Any

from vit_jax_tricks.models import pruned
from vit_jax_tricks.models.block import Block, run_blocks
from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.attention_pool import AttentionPool
from vit_jax_tricks.models.layers.gated_attention import GatedPositionalAttention
from vit_jax_tricks.models.layers.glu import GatedMlp
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.models.parallel_block import ParallelScalingBlock
from vit_jax_tricks.models.positions import Positions, relative_layers
from vit_jax_tricks.typing import Array, Float


# timm's `Block`, `ResPostBlock` and `ParallelScalingBlock`.
BLOCKS = ("pre_norm", "post_norm", "parallel_scaling")
# timm's `Mlp`, `SwiGLU`, `SwiGLUPacked`; int(d * mlp_ratio) units after the gate.
MLPS = ("mlp", "swiglu", "swiglu_packed")
POOLS = ("token", "avg", "avgmax", "max", "map", "prr")


def run(
    model: Any,
    x: Float[Array, "b n d"],
    positions: Positions,
    rope: Float[Array, "..."] | None,
    train: bool,
) -> Float[Array, "b n d"]:
    """Applies all transformer blocks."""
    dtypes = {"dtype": model.dtype, "param_dtype": model.param_dtype}
    relative = relative_layers(
        positions.relative,
        model.grid,
        prefix=model.prefix_tokens,
        hidden=model.rel_pos_dim,
        ratio=model.irpe_ratio,
        table_std=0.0 if model.weight_init == "eva" else 0.02,
        inits=initializers.VIT[model.weight_init],
    )
    bias = None
    if model.shared_rel_pos:
        shared = relative.pop("rel_pos")
        shared = shared(num_heads=model.num_heads, name="shared_rel_pos", **dtypes)
        bias = shared(train=train)
    fields: dict[str, Any] = dict(
        num_heads=model.num_heads,
        head_dim=model.head_width,
        mlp_hidden=int(model.embed_dim * model.mlp_ratio),
        qkv_bias=model.qkv_bias,
        init_values=model.init_values,
        proj_drop_rate=model.proj_drop_rate,
        attn_drop_rate=model.attn_drop_rate,
        act_layer=model.act_layer,
        norm_layer=model.norm_layer,
        norm_eps=model.norm_eps,
        **dtypes,
    )
    block = Block
    if model.block_fn == "parallel_scaling":
        block = ParallelScalingBlock
        fields |= dict(qk_norm=model.qk_norm, proj_bias=model.proj_bias)
    else:
        fields |= _layers(model, positions, relative)
    rates = functional.drop_path_rates(
        model.drop_path_rate, model.depth, decay=model.drop_path_decay
    )
    return run_blocks(
        pruned.layers(model, [fields] * model.depth),
        x,
        rates,
        train,
        scan=model.scan,
        remat=model.remat,
        block_type=block,
        bias=bias,
        rope=rope,
        shrink=model.weight_init == "eva",
    )


def _layers(
    model: Any, positions: Positions, relative: dict[str, Any]
) -> dict[str, Any]:
    """The fields that select the layers of a `Block`."""
    inits = initializers.VIT[model.weight_init]
    norm = partial(
        NORMS[model.norm_layer], model.norm_eps, model.dtype, model.param_dtype
    )
    attention = partial(
        Attention,
        qk_norm=model.qk_norm,
        norm_layer=model.norm_layer,
        norm_eps=model.norm_eps,
        scale_norm=model.scale_attn_norm,
        proj_bias=model.proj_bias,
        qkv=model.qkv,
        rotate_half=positions.rope == "rope_dinov3",
        inits=inits,
        **relative,
    )
    if positions.relative == "convit":
        attention = partial(
            GatedPositionalAttention, grid=model.grid, prefix=model.prefix_tokens
        )
    mlp = partial(
        Mlp,
        use_bias=model.proj_bias,
        norm=norm if model.scale_mlp_norm else None,
        inits=inits,
    )
    if model.mlp_layer != "mlp":
        packed = model.mlp_layer == "swiglu_packed"
        mlp = partial(GatedMlp, packed=packed, **mlp.keywords)
    return dict(
        attn_layer=attention,
        mlp_layer=mlp,
        act_layer=model.act_layer if model.mlp_layer == "mlp" else "silu",
        post_norm=model.block_fn == "post_norm",
        parallel=model.parallel,
    )


def pool(model: Any, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b d"]:
    """Pools all tokens to the classifier's input, by `global_pool`.

    "token" takes the first token; "avg", "max" and "avgmax" (the mean of both) pool the
    patch tokens, or all tokens with `pool_include_prefix`; "map" is an `AttentionPool`;
    "prr" is self-attention without parameters, then the first token, or the mean if
    there is no class token.
    """
    if model.global_pool == "map":
        return AttentionPool(
            model.num_heads,
            int(model.embed_dim * model.mlp_ratio),
            model.act_layer,
            model.norm_layer,
            model.norm_eps,
            model.dtype,
            model.param_dtype,
            name="attn_pool",
        )(x, train)
    if model.global_pool == "prr":
        heads = x.reshape(*x.shape[:2], model.num_heads, -1)
        x = functional.attention(heads, heads, heads).reshape(x.shape)
        return x[:, 0] if model.class_token else x.mean(1)
    if model.global_pool == "token":
        return x[:, 0]
    if not model.pool_include_prefix:
        x = x[:, model.prefix_tokens :]
    if model.global_pool == "avg":
        return x.mean(1)
    largest = x.max(1)
    return largest if model.global_pool == "max" else (largest + x.mean(1)) / 2

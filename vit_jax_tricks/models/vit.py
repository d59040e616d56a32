"""Vision Transformer and its plain relatives: ViT, DeiT, DeiT III, CLIP's towers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models import checks, pruned, vit_check, vit_parts
from vit_jax_tricks.models.base import PatchModel
from vit_jax_tricks.models.block import Block
from vit_jax_tricks.models.blocks import BlockParts
from vit_jax_tricks.models.feature_maps import Level, block_levels
from vit_jax_tricks.models.layers import functional, gates, initializers
from vit_jax_tricks.models.layers.attention import Attention
from vit_jax_tricks.models.layers.attention_pool import AttentionPool
from vit_jax_tricks.models.layers.gated_attention import GatedPositionalAttention
from vit_jax_tricks.models.layers.glu import GatedMlp
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.mlp import Mlp
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.models.layers.patch_embed import HierarchicalStem, PatchEmbed
from vit_jax_tricks.models.layers.relative_bias import MixedRotary
from vit_jax_tricks.models.parallel_block import ParallelScalingBlock
from vit_jax_tricks.models.positions import (
    ABSOLUTE,
    ROPE,
    Positions,
    parse,
    relative_layers,
)
from vit_jax_tricks.models.stack import run_stack
from vit_jax_tricks.models.token_head import TokenHead
from vit_jax_tricks.sharding import constrain
from vit_jax_tricks.typing import Array, Float, Int, Num, Params


class VisionTransformer(PatchModel):
    """Patches + positions -> transformer blocks -> norm -> pooled tokens -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, prefix
    tokens first, and `features` [b, d], the classifier's input. A distilled model adds
    `features_dist`, `logits_cls` and `logits_dist`; its logits are those of the class
    head in training and the mean of both heads in evaluation. With `num_classes=0` the
    logits are the features.

    Field names and meanings are those of timm's `VisionTransformer`; `pos_embed` takes
    any encoding of `models.positions`. Additions: `distilled` (timm's
    `VisionTransformerDistilled`); layers by name, namely `act_layer`, `norm_layer` with
    `norm_eps`, `mlp_layer` and `block_fn` (`models.vit_check`), `qkv`
    (`layers.attention.QKV`) and `weight_init` (`layers.initializers.VIT`);
    `rel_pos_dim` and `shared_rel_pos` (timm's `VisionTransformerRelPos`); `rope_...`
    and `ref_feat_shape` (timm's `Eva`); `irpe_ratio`; `head_bias` (False for CLIP's
    projection); `drop_path_decay` ("linear" or "constant"); `parallel` and
    `stem="hmlp"` (Touvron et al., 2022, arXiv:2203.09795); `scan` (one traced block,
    parameters stacked under `blocks`); `remat` (recomputes each block in the backward
    pass); `block_heads` and `block_hidden` (heads and hidden units of each block, after
    pruning); `head_dim` (width of a head if it is not embed_dim / num_heads).

    A subclass overrides the methods in which it differs: `embed` with `embed_patches`
    and `prefix`, `rotary`, `encode` with `block_fields`, `pool` and `classify`.

    Sources: Dosovitskiy et al., 2020, arXiv:2010.11929; Touvron et al., 2020 (DeiT),
    arXiv:2012.12877; Touvron et al., 2022 (DeiT III), arXiv:2204.07118.
    """

    global_pool: str = "token"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    head_dim: int | None = None
    mlp_ratio: float = 4.0
    block_heads: tuple[int, ...] | None = None
    block_hidden: tuple[int, ...] | None = None
    qkv_bias: bool = True
    qk_norm: bool = False
    scale_attn_norm: bool = False
    scale_mlp_norm: bool = False
    proj_bias: bool = True
    init_values: float | None = None
    class_token: bool = True
    distilled: bool = False
    pos_embed: str = "learn"
    no_embed_class: bool = False
    reg_tokens: int = 0
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    pool_include_prefix: bool = False
    head_bias: bool = True
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_decay: str = "linear"
    weight_init: str = ""
    act_layer: str = "gelu"
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    mlp_layer: str = "mlp"
    block_fn: str = "pre_norm"
    qkv: str = "fused"
    rel_pos_dim: int | None = None
    shared_rel_pos: bool = False
    irpe_ratio: float | None = None
    rope_temperature: float | None = None
    rope_grid_indexing: str = "ij"
    rope_grid_offset: float = 0.0
    ref_feat_shape: int | tuple[int, int] | None = None
    parallel: int = 1
    stem: str = "patch"

    key_names = "vit_jax_tricks.pretrained.relatives_rules:VIT"
    stochastic = (
        *PatchModel.stochastic,
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
    )

    @property
    def activation(self) -> str:
        """The activation of the MLPs."""
        return self.act_layer

    @property
    def head_width(self) -> int:
        """Channels of each head."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens: class, distillation, registers."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

    @property
    def position_prefix(self) -> int:
        """Rows of the position table that belong to prefix tokens."""
        return 0 if self.no_embed_class else self.prefix_tokens

    @property
    def positions(self) -> Positions:
        """The position encodings, by group."""
        return parse(self.pos_embed)

    @property
    def feature_info(self) -> tuple[Level, ...]:
        """The feature maps: the output of each block."""
        return block_levels(
            self.depth, self.embed_dim, self.patch_size, self.prefix_tokens
        )

    @property
    def last_norm(self) -> Callable[..., nn.Module] | None:
        """Factory of the norm after the blocks; None if it follows the pooling."""
        return self.norm if self.final_norm and not self.pooled_norm else None

    @property
    def pooled_norm(self) -> bool:
        """Whether the last norm follows the pooling.

        None in `fc_norm` takes it with "avg", "avgmax" and "max".
        """
        mean = self.global_pool in ("avg", "avgmax", "max")
        return mean if self.fc_norm is None else self.fc_norm

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        vit_check.check(self)

    def blocks(self) -> list[BlockParts]:
        """All blocks, with their heads and hidden units."""
        return vit_parts.blocks(self)

    @property
    def class_token_in_every_block(self) -> bool:
        """Whether the first token of every block is a class token."""
        return self.class_token

    def unprunable(self) -> dict[str, str]:
        """The kinds of units that parallel branches and wide norms keep."""
        return vit_parts.unprunable(self)

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.embed_dim

    def fixed_width(self) -> str | None:
        """The reason why other weights cannot have another width, or None."""
        return vit_parts.fixed_width(self)

    def with_width(self, width: int) -> Any:
        """The model of another width, with the same heads and hidden units."""
        return pruned.with_width(self, width, self.head_width)

    def token_head(self) -> TokenHead:
        """The classifier at each place, unless the model pools by attention."""
        return vit_parts.token_head(self)

    def place_logits(
        self, params: Params, places: Float[Array, "b n d"]
    ) -> Float[Array, "b n k"]:
        """The logits of each place: those of a feature behind `fc_norm`, if any."""
        if "fc_norm" in params:
            norm: Any = self.norm(parent=None)
            places = norm.apply({"params": params["fc_norm"]}, places)
        return super().place_logits(params, places)

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        x, kept = self.embed(images, train)
        rope = self.rotary(kept)
        if self.pre_norm:
            x = self.norm(name="norm_pre")(x, gates.find(self, "width", x.shape[-1]))
        x = self.encode(x, rope, train)
        tokens, features = self.pool(x, train)
        return self.classify(tokens, features, train)

    def embed(
        self, images: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b n d"], Int[Array, "b n"] | None]:
        """Embeds images as tokens with positions, prefix tokens first.

        Also returns the indices of the kept tokens, or None if all are kept.
        """
        x = self.embed_patches(images, train)
        b, n, d = x.shape
        prefix = [jnp.broadcast_to(p, (b, *p.shape[1:])) for p in self.prefix()]
        absolute = self.positions.absolute
        if absolute == "learn":
            table = self.table("pos_embed", (1, n + self.position_prefix, d))
            if self.no_embed_class:
                x = jnp.concatenate([*prefix, x + table], axis=1)
            else:
                x = jnp.concatenate([*prefix, x], axis=1) + table
        else:
            if absolute is not None:
                form = ABSOLUTE[absolute]
                table = functional.sincos_2d(self.grid, d, form=form)
                x = x + jnp.asarray(table, self.dtype)[None]
            x = jnp.concatenate([*prefix, x], axis=1)
        x = functional.gated(x, gates.find(self, "width", d))
        x = nn.Dropout(self.pos_drop_rate, deterministic=not train)(x)
        if not train or self.patch_drop_rate == 0:
            return constrain(x), None
        key, rate = self.make_rng("dropout"), self.patch_drop_rate
        kept = functional.kept_tokens(key, (b, n), rate, prefix=self.prefix_tokens)
        return constrain(jnp.take_along_axis(x, kept[:, :, None], axis=1)), kept

    def embed_patches(
        self, images: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b n d"]:
        """Embeds images as patch tokens without positions."""
        if self.stem == "hmlp":
            stem = HierarchicalStem(self.embed_dim, name="patch_embed", **self.dtypes)
        else:
            stem = PatchEmbed(
                self.embed_dim,
                self.patch_size,
                use_bias=not self.pre_norm,
                name="patch_embed",
                **self.dtypes,
            )
        return stem(images, train)

    def prefix(self) -> list[Float[Array, "1 r d"]]:
        """The class, distillation and register tokens."""
        small = 0.02 if self.weight_init == "eva" else 1e-6
        tokens, d = [], self.embed_dim
        if self.class_token:
            tokens.append(self.table("cls_token", (1, 1, d), small))
        if self.distilled:
            tokens.append(self.table("dist_token", (1, 1, d)))
        if self.reg_tokens:
            tokens.append(self.table("reg_token", (1, self.reg_tokens, d), small))
        return tokens

    def rotary(self, kept: Int[Array, "b n"] | None) -> Float[Array, "..."] | None:
        """The `rope` of the blocks: [#b, n, 1, e], or [l, #b, n, g, e] by block."""
        kind = self.positions.rope
        if kind is None:
            return None
        head_dim = self.head_width
        table = partial(functional.rotary_table, prefix=self.prefix_tokens)
        reference = self.ref_feat_shape
        if isinstance(reference, int):
            reference = (reference, reference)
        heat = self.rope_temperature
        heat = ROPE[kind] if heat is None else heat
        if kind == "rope_dinov3":
            angles = functional.rotary_dinov3(self.grid, head_dim, temperature=heat)
            rope = table(angles, half=True)[None, :, None]
        else:
            points = functional.rotary_coordinates(
                self.grid,
                indexing=self.rope_grid_indexing,
                offset=self.rope_grid_offset,
                reference=reference,
            )
            if kind == "rope_axial":
                angles = functional.rotary_axial(points, head_dim, temperature=heat)
                rope = table(angles)[None, :, None]
            else:
                angles = MixedRotary(
                    (self.depth, self.num_heads),
                    head_dim,
                    heat,
                    self.param_dtype,
                    name="rope",
                )(points)
                rope = table(angles).swapaxes(1, 2)[:, None]
        if kept is None:
            return jnp.asarray(rope)
        index = kept[:, :, None, None]
        index = index[None] if rope.ndim == 5 else index
        return jnp.take_along_axis(jnp.asarray(rope), index, axis=-3)

    def encode(
        self,
        x: Float[Array, "b n d"],
        rope: Float[Array, "..."] | None,
        train: bool,
    ) -> Float[Array, "b m d"]:
        """Applies all transformer blocks; hooks may change the number of tokens."""
        relative = relative_layers(
            self.positions.relative,
            self.grid,
            prefix=self.prefix_tokens,
            hidden=self.rel_pos_dim,
            ratio=self.irpe_ratio,
            table_std=0.0 if self.weight_init == "eva" else 0.02,
            inits=initializers.VIT[self.weight_init],
        )
        bias = None
        if self.shared_rel_pos:
            shared = relative.pop("rel_pos")
            shared = shared(
                num_heads=self.num_heads, name="shared_rel_pos", **self.dtypes
            )
            bias = shared(train=train)
        rates = functional.drop_path_rates(
            self.drop_path_rate, self.depth, decay=self.drop_path_decay
        )
        parallel = self.block_fn == "parallel_scaling"
        block = ParallelScalingBlock if parallel else Block
        layers = pruned.layers(self, [self.block_fields(relative)] * self.depth)
        each: dict[str, Any] = {}
        if self.weight_init == "eva":
            each["out_gain"] = [(2 * i + 2) ** -0.5 for i in range(self.depth)]
        if rope is not None and rope.ndim == 5:
            each["rope"], rope = rope, None
        return run_stack(
            [partial(block, **own) for own in layers],
            x,
            rates,
            train,
            self.plan,
            shared={"bias": bias, "rope": rope},
            each=each,
        )[0]

    def block_fields(self, relative: dict[str, Any]) -> dict[str, Any]:
        """The fields of a block; `relative` holds its attention's position layers."""
        fields: dict[str, Any] = dict(
            num_heads=self.num_heads,
            head_dim=self.head_width,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
            qkv_bias=self.qkv_bias,
            init_values=self.init_values,
            proj_drop_rate=self.proj_drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            act_layer=self.act_layer,
            norm_layer=self.norm_layer,
            norm_eps=self.norm_eps,
            **self.dtypes,
        )
        if self.block_fn == "parallel_scaling":
            return fields | dict(qk_norm=self.qk_norm, proj_bias=self.proj_bias)
        inits = initializers.VIT[self.weight_init]
        attention = partial(
            Attention,
            qk_norm=self.qk_norm,
            norm_layer=self.norm_layer,
            norm_eps=self.norm_eps,
            scale_norm=self.scale_attn_norm,
            proj_bias=self.proj_bias,
            qkv=self.qkv,
            rotate_half=self.positions.rope == "rope_dinov3",
            inits=inits,
            **relative,
        )
        if self.positions.relative == "convit":
            attention = partial(
                GatedPositionalAttention, grid=self.grid, prefix=self.prefix_tokens
            )
        mlp = partial(
            Mlp,
            use_bias=self.proj_bias,
            norm=self.norm if self.scale_mlp_norm else None,
            inits=inits,
        )
        if self.mlp_layer != "mlp":
            packed = self.mlp_layer == "swiglu_packed"
            mlp = partial(GatedMlp, packed=packed, **mlp.keywords)
            fields["act_layer"] = "silu"
        return fields | dict(
            attn_layer=attention,
            mlp_layer=mlp,
            post_norm=self.block_fn == "post_norm",
            parallel=self.parallel,
        )

    @property
    def norm(self) -> Callable[..., nn.Module]:
        """Factory of the norms between and after the blocks."""
        return partial(NORMS[self.norm_layer], self.norm_eps, **self.dtypes)

    def pool(
        self, x: Float[Array, "b n d"], train: bool
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b d"]]:
        """Returns the tokens after the last norm, and the features pooled from them.

        `pooled_norm` moves the norm behind the pooling.
        """
        width = gates.find(self, "width", x.shape[-1])
        if self.last_norm is not None:
            x = self.last_norm(name="norm")(x, width)
        features = self.reduce(x, train)
        if self.final_norm and self.pooled_norm:
            features = self.norm(name="fc_norm")(features, width)
        return x, features

    def reduce(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b d"]:
        """Reduces all tokens to one, by `global_pool`.

        "token" takes the first token; "avg", "max" and "avgmax" (the mean of both) pool
        the patch tokens, or all tokens with `pool_include_prefix`; "map" is an
        `AttentionPool`; "prr" is self-attention without parameters, then the first
        token, or the mean if there is no class token.
        """
        if self.global_pool == "map":
            return AttentionPool(
                self.num_heads,
                int(self.embed_dim * self.mlp_ratio),
                self.act_layer,
                self.norm_layer,
                self.norm_eps,
                name="attn_pool",
                **self.dtypes,
            )(x, train)
        if self.global_pool == "prr":
            heads = x.reshape(*x.shape[:2], self.num_heads, -1)
            x = functional.attention(heads, heads, heads).reshape(x.shape)
            return x[:, 0] if self.class_token else x.mean(1)
        if self.global_pool == "token":
            return x[:, 0]
        if not self.pool_include_prefix:
            x = x[:, self.prefix_tokens :]
        if self.global_pool == "avg":
            return x.mean(1)
        largest = x.max(1)
        return largest if self.global_pool == "max" else (largest + x.mean(1)) / 2

    def classify(
        self,
        tokens: Float[Array, "b n d"],
        features: Float[Array, "b d"],
        train: bool,
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Applies the heads; returns the logits, in at least float32, and `aux`."""
        head = partial(
            Classifier,
            self.num_classes,
            self.drop_rate,
            self.head_bias,
            inits=initializers.VIT_HEAD[self.weight_init],
            **self.dtypes,
        )
        logits = head(name="head")(features, train)
        aux = {"tokens": tokens, "features": features}
        if self.distilled:
            aux["features_dist"] = tokens[:, 1]
            aux["logits_cls"] = logits
            aux["logits_dist"] = head(name="head_dist")(tokens[:, 1], train)
            if not train:
                logits = (logits + aux["logits_dist"]) / 2
        return logits, aux

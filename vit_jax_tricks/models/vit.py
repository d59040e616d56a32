"""Vision Transformer and its plain relatives: ViT, DeiT, DeiT III, CLIP's towers."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks.models import checks, vit_blocks, vit_check, vit_embed
from vit_jax_tricks.models.layers import initializers
from vit_jax_tricks.models.layers.head import Classifier
from vit_jax_tricks.models.layers.norm import NORMS
from vit_jax_tricks.models.positions import parse
from vit_jax_tricks.typing import Array, Float, Num


class VisionTransformer(nn.Module):
    """Patches + positions -> transformer blocks -> norm -> pooled tokens -> linear.

    Returns `(logits, aux)`; `aux` holds `tokens` [b, n, d] after the last norm, prefix
    tokens first, and `features` [b, d], the classifier's input. A distilled model adds
    `features_dist`, `logits_cls` and `logits_dist`; its logits are those of the class
    head in training and the mean of both heads in evaluation. With `num_classes=0` the
    logits are the features.

    Field names and meanings are those of timm's `VisionTransformer`; `pos_embed` takes
    any encoding of `models.positions`. Additions: `distilled` (timm's
    `VisionTransformerDistilled`); layers by name, namely `act_layer`, `norm_layer` with
    `norm_eps`, `mlp_layer` and `block_fn` (`models.vit_blocks`), `qkv`
    (`layers.attention.QKV`) and `weight_init` (`layers.initializers.VIT`);
    `rel_pos_dim` and `shared_rel_pos` (timm's `VisionTransformerRelPos`); `rope_...`
    and `ref_feat_shape` (timm's `Eva`); `irpe_ratio`; `head_bias` (False for CLIP's
    projection); `drop_path_decay` ("linear" or "constant"); `parallel` and
    `stem="hmlp"` (Touvron et al., 2022, arXiv:2203.09795); `scan` (one traced block,
    parameters stacked under `blocks`); `remat` (recomputes each block in the backward
    pass); `block_heads` and `block_hidden` (heads and hidden units of each block, after
    pruning); `head_dim` (width of a head if it is not embed_dim / num_heads).

    Sources: Dosovitskiy et al., 2020, arXiv:2010.11929; Touvron et al., 2020 (DeiT),
    arXiv:2012.12877; Touvron et al., 2022 (DeiT III), arXiv:2204.07118.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
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
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
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
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an input image."""
        size = self.img_size
        h, w = (size, size) if isinstance(size, int) else size
        return h, w, self.in_chans

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        h, w, _ = self.image_shape
        return h // self.patch_size, w // self.patch_size

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

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        vit_check.check(self)

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        checks.check_images(self, images)
        norm = partial(
            NORMS[self.norm_layer], self.norm_eps, self.dtype, self.param_dtype
        )
        positions = parse(self.pos_embed)
        x, kept = vit_embed.embed(self, images, positions, train)
        rope = vit_embed.rotary(self, positions, kept)
        if self.pre_norm:
            x = norm(name="norm_pre")(x)
        x = vit_blocks.run(self, x, positions, rope, train)
        mean = self.global_pool in ("avg", "avgmax", "max")
        fc_norm = mean if self.fc_norm is None else self.fc_norm
        if self.final_norm and not fc_norm:
            x = norm(name="norm")(x)
        features = vit_blocks.pool(self, x, train)
        if self.final_norm and fc_norm:
            features = norm(name="fc_norm")(features)
        return self._heads(x, features, train)

    def _heads(
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
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            inits=initializers.VIT_HEAD[self.weight_init],
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

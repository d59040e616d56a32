"""EVA-02, RoPE-ViT and DINOv3: ViTs with rotary positions, under timm's field names."""

import math
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront


ROPE_TYPES = {"cat": "rope_axial", "mixed": "rope_mixed", "dinov3": "rope_dinov3"}
# timm's field name -> ours, for fields with the same meaning.
_RENAMED = {
    "num_reg_tokens": "reg_tokens",
    "scale_mlp": "scale_mlp_norm",
    "scale_attn_inner": "scale_attn_norm",
    "use_pre_transformer_norm": "pre_norm",
}
# Fields that are converted together in `vit`.
_DERIVED = (
    "qkv_fused",
    "swiglu_mlp",
    "swiglu_align_to",
    "mlp_ratio",
    "attn_type",
    "use_abs_pos_emb",
    "use_rot_pos_emb",
    "rope_type",
    "rope_rotate_half",
    "use_post_norm",
    "use_post_transformer_norm",
    "use_fc_norm",
    "init_values",
)


class Eva(VitFront):
    """A `VisionTransformer` under the field names of timm's `Eva`.

    Supports absolute and rotary positions together, SwiGLU, norms inside the branches,
    and biases of q and v only (`attn_type="eva"`) or of k too ("rope"). Additions:
    `norm_eps` by value, `scan` and `remat`.

    Sources: Fang et al., 2023 (EVA-02), arXiv:2303.11331; Heo et al., 2024 (RoPE-ViT),
    arXiv:2403.13298; Simeoni et al., 2025 (DINOv3), arXiv:2508.10104.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    qkv_bias: bool = True
    qkv_fused: bool = True
    mlp_ratio: float = 4.0
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    scale_mlp: bool = False
    scale_attn_inner: bool = False
    attn_type: str = "eva"
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    init_values: float | None = None
    class_token: bool = True
    num_reg_tokens: int = 0
    no_embed_class: bool = False
    use_abs_pos_emb: bool = True
    use_rot_pos_emb: bool = False
    rope_type: str = "cat"
    rope_grid_offset: float = 0.0
    rope_grid_indexing: str = "ij"
    rope_temperature: float = 10000.0
    rope_rotate_half: bool = False
    use_post_norm: bool = False
    use_pre_transformer_norm: bool = False
    use_post_transformer_norm: bool | None = None
    use_fc_norm: bool | None = None
    ref_feat_shape: int | tuple[int, int] | None = None
    norm_eps: float = 1e-6
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        own = {_RENAMED.get(k, k): v for k, v in self.fields(*_DERIVED).items()}
        encodings = ["learn"] * self.use_abs_pos_emb
        if self.use_rot_pos_emb:
            encodings.append(ROPE_TYPES[self.rope_type])
        hidden = int(self.embed_dim * self.mlp_ratio)
        mlp_layer = "mlp"
        if self.swiglu_mlp:
            apart = self.scale_mlp or self.swiglu_align_to
            mlp_layer = "swiglu" if apart else "swiglu_packed"
            hidden += -hidden % max(self.swiglu_align_to, 1)
        no_key_bias = "_qv" if self.attn_type == "eva" else ""
        return VisionTransformer(
            **own,
            pos_embed="+".join(encodings) or "none",
            # Rounded up, so that the product does not fall below `hidden`.
            mlp_ratio=math.nextafter(hidden / self.embed_dim, math.inf),
            mlp_layer=mlp_layer,
            qkv=("fused" if self.qkv_fused else "separate") + no_key_bias,
            block_fn="post_norm" if self.use_post_norm else "pre_norm",
            init_values=None if self.use_post_norm else self.init_values,
            final_norm=self._norms != (False, False),
            fc_norm=self._norms[1],
            weight_init="eva",
            **more,
        )

    @property
    def _norms(self) -> tuple[bool, bool]:
        """Whether there is a norm after the blocks, and one after pooling."""
        pooled = self.use_fc_norm
        pooled = self.global_pool == "avg" if pooled is None else pooled
        after = self.use_post_transformer_norm
        return (not pooled if after is None else after), pooled

    def check(self) -> None:
        """Raises UserError if the fields contradict one another."""
        choices = {"rope_type": tuple(ROPE_TYPES), "attn_type": ("eva", "rope")}
        checks.check_choices(self, choices)
        if self._norms == (True, True):
            raise UserError(
                "use_post_transformer_norm=True and use_fc_norm=True are both final "
                "norms; use one of them."
            )
        half = self.use_rot_pos_emb and self.rope_type == "dinov3"
        if self.rope_rotate_half != half:
            raise UserError(
                f"rope_rotate_half={self.rope_rotate_half} does not go with rope_type="
                f'"{self.rope_type}"; it is True for "dinov3" and False for the others.'
            )
        super().check()

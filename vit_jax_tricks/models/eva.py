"""EVA-02, RoPE-ViT and DINOv3: ViTs with rotary positions, under timm's field names."""

import math
from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import checks
from vit_jax_tricks.models.registry import (
    CLIP,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_front import VitFront
from vit_jax_tricks.models.vit_variants import SIZES


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

    qkv_fused: bool = True
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    scale_mlp: bool = False
    scale_attn_inner: bool = False
    attn_type: str = "eva"
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
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

    key_names = "vit_jax_tricks.pretrained.relatives_rules:EVA"
    stochastic = (*VitFront.stochastic, "pos_drop_rate", "patch_drop_rate")

    def vit(self, **more: Any) -> VisionTransformer:
        """The equivalent `VisionTransformer`; `more` holds its parent."""
        own = {_RENAMED.get(k, k): v for k, v in self.fields(*_DERIVED).items()}
        encodings = ["learn"] * self.use_abs_pos_emb
        if self.use_rot_pos_emb:
            encodings.append(ROPE_TYPES[self.rope_type])
        hidden = int(self.embed_dim * self.mlp_ratio)
        mlp_layer = "mlp"
        if self.swiglu_mlp:
            separate = self.scale_mlp or self.swiglu_align_to
            mlp_layer = "swiglu" if separate else "swiglu_packed"
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


# Parameters and classes (timm 1.0.31); crop, crop mode and ImageNet-1k top-1 of timm's
# default weights.
EVA02: dict[str, tuple[int, int, tuple, float | None]] = {
    "eva02_tiny_patch14_224": (5_502_144, 0, (0.9,), None),
    "eva02_small_patch14_224": (21_621_120, 0, (0.9,), None),
    "eva02_base_patch14_224": (85_758_720, 0, (0.9,), None),
    "eva02_large_patch14_224": (303_268_800, 0, (0.9,), None),
    "eva02_tiny_patch14_336": (5_756_584, 1000, (1.0,), 80.648),
    "eva02_small_patch14_336": (22_129_000, 1000, (1.0,), 85.770),
    "eva02_base_patch14_448": (87_117_544, 1000, (1.0, "squash"), 88.678),
    "eva02_large_patch14_448": (305_080_232, 1000, (1.0, "squash"), 89.956),
    "eva02_base_patch16_clip_224": (86_263_040, 512, (0.9,), None),
    "eva02_large_patch14_clip_224": (304_105_152, 768, (0.9,), None),
    "eva02_large_patch14_clip_336": (304_432_832, 768, (1.0,), None),
}
EVA02_POST_NORM = {"eva02_enormous_patch14_clip_224": (4_350_556_928, 1024)}
# Parameters and top-1 on ImageNet-1k of naver-ai/rope-vit's weights in timm.
ROPE = {
    "vit_small_patch16_rope_224": (21_984_232, 81.222),
    "vit_base_patch16_rope_224": (86_434_792, 83.714),
    "vit_large_patch16_rope_224": (304_174_056, 84.646),
    "vit_small_patch16_rope_mixed_224": (21_988_840, 81.252),
    "vit_base_patch16_rope_mixed_224": (86_444_008, 83.806),
    "vit_large_patch16_rope_mixed_224": (304_198_632, 84.840),
    "vit_small_patch16_rope_ape_224": (22_059_496, 81.016),
    "vit_base_patch16_rope_ape_224": (86_585_320, 83.780),
    "vit_large_patch16_rope_ape_224": (304_374_760, 84.660),
    "vit_small_patch16_rope_mixed_ape_224": (22_064_104, 80.974),
    "vit_base_patch16_rope_mixed_ape_224": (86_594_536, 83.898),
    "vit_large_patch16_rope_mixed_ape_224": (304_399_336, 84.846),
}
DINOV3 = {
    "vit_tiny_patch16_dinov3_qkvb": 5_489_664,
    "vit_small_patch16_dinov3": 21_586_944,
    "vit_small_patch16_dinov3_qkvb": 21_596_160,
    "vit_small_plus_patch16_dinov3": 28_683_264,
    "vit_small_plus_patch16_dinov3_qkvb": 28_692_480,
    "vit_base_patch16_dinov3": 85_641_216,
    "vit_base_patch16_dinov3_qkvb": 85_659_648,
    "vit_large_patch16_dinov3": 303_079_424,
    "vit_large_patch16_dinov3_qkvb": 303_128_576,
    "vit_huge_plus_patch16_dinov3": 840_509_440,
    "vit_huge_plus_patch16_dinov3_qkvb": 840_591_360,
}
GOLDENS = {"eva02_tiny_patch14_224": "models_full/timm_eva02_tiny_patch14_224"}


def _register(
    name: str, fields: dict[str, Any], count: int, classes: int, **entry: Any
) -> None:
    _, size, *rest = name.split("_")
    patch = next(part for part in rest if part.startswith("patch"))
    register(
        name,
        Entry(
            family=Eva,
            defaults={
                **SIZES.get(size, {}),
                "img_size": int(rest[-1]) if rest[-1].isdigit() else 256,
                "patch_size": int(patch.removeprefix("patch")),
                **fields,
            },
            parameters=count,
            parameters_classes=classes,
            source="timm 1.0.31",
            dialect="timm",
            golden=GOLDENS.get(name, "models_small/small_eva_rope"),
            **entry,
        ),
    )


for _name, (_count, _classes, _crop, _top1) in EVA02.items():
    _fields: dict[str, Any] = {
        "mlp_ratio": 4 * 2 / 3,
        "swiglu_mlp": True,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (16, 16),
    }
    if "_base_" in _name or "_large_" in _name:
        _fields |= {"qkv_fused": False, "scale_mlp": True}
    if "_clip_" in _name:
        _fields |= {"scale_attn_inner": True, "global_pool": "token"}
    _crop_mode = dict(zip(("crop_pct", "crop_mode"), _crop, strict=False))
    _register(
        _name,
        _fields,
        _count,
        _classes,
        preprocessing=Preprocessing(*CLIP, **_crop_mode),
        top1=_top1,
    )
for _name, (_count, _classes) in EVA02_POST_NORM.items():
    _fields = {
        "embed_dim": 1792,
        "depth": 64,
        "num_heads": 16,
        "mlp_ratio": 15360 / 1792,
        "use_post_norm": True,
        "global_pool": "token",
    }
    _preprocessing = Preprocessing(*CLIP, 0.9)
    _register(_name, _fields, _count, _classes, preprocessing=_preprocessing)
for _name, (_count, _top1) in ROPE.items():
    _mixed, _absolute = "_mixed_" in _name, "_ape_" in _name
    _fields = {
        "attn_type": "rope",
        "init_values": 1e-5,
        "global_pool": "token",
        "no_embed_class": _absolute,
        "use_abs_pos_emb": _absolute,
        "use_rot_pos_emb": True,
        "rope_type": "mixed" if _mixed else "cat",
        "rope_grid_indexing": "xy",
        "rope_temperature": 10.0 if _mixed else 100.0,
    }
    _preprocessing = Preprocessing(*IMAGENET, 0.9)
    _register(_name, _fields, _count, 1000, preprocessing=_preprocessing, top1=_top1)
for _name, _count in DINOV3.items():
    _fields = {
        "qkv_bias": _name.endswith("_qkvb"),
        "init_values": 1e-5,
        "rope_type": "dinov3",
        "rope_temperature": 100.0,
        "rope_rotate_half": True,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "use_fc_norm": False,
        "norm_eps": 1e-5,
    }
    if "_plus_" in _name:
        _fields |= {"swiglu_mlp": True, "swiglu_align_to": 8}
    if "_huge_plus_" in _name:
        _fields |= {"num_heads": 20}
    _preprocessing = Preprocessing(*IMAGENET, 1.0)
    _register(_name, _fields, _count, 0, preprocessing=_preprocessing)

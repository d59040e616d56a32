"""Model names of ViT's relatives: SigLIP, average pooling, post-norm, DINOv2, iRPE."""

from functools import partial
from typing import Any

from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_variants import SIZES as VIT_SIZES


SIZES: dict[str, dict[str, Any]] = {
    **VIT_SIZES,
    "so400m": {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362},
    "giantopt": {"embed_dim": 1536, "depth": 40, "num_heads": 16},
}
# Counts: timm 1.0.31, for the default number of classes of its weights.
LARGE = {
    "vit_giant_patch14_224": 1_012_611_432,
    "vit_gigantic_patch14_224": 1_844_440_680,
}
GAP = {
    "vit_base_patch16_gap_224": 86_566_120,
    "vit_huge_patch14_gap_224": (630_762_240, 0),
    "vit_huge_patch16_gap_448": (631_668_480, 0),
    "vit_giant_patch16_gap_224": (1_011_368_576, 0),
}
GAP_SCALED = {
    "vit_medium_patch16_gap_240": (44_396_589, 11821),
    "vit_medium_patch16_gap_256": 38_861_288,
    "vit_medium_patch16_gap_384": 39_025_128,
    "vit_betwixt_patch16_gap_256": 60_372_840,
}
POST_NORM = {"vit_base_patch16_rpn_224": 86_538_472}
PARALLEL_SCALING = {
    "vit_base_patch16_xp_224": 86_512_360,
    "vit_large_patch14_xp_224": 304_057_320,
    "vit_huge_patch14_xp_224": 631_802_600,
}
# SigLIP and SigLIP 2; in timm, the sizes added by SigLIP 2 use the tanh GELU.
SIGLIP = {
    "vit_base_patch16_siglip_224": 92_884_224,
    "vit_base_patch16_siglip_256": 92_930_304,
    "vit_base_patch16_siglip_384": 93_176_064,
    "vit_base_patch16_siglip_512": 93_520_128,
    "vit_large_patch16_siglip_256": 315_956_224,
    "vit_large_patch16_siglip_384": 316_283_904,
    "vit_so400m_patch14_siglip_224": 427_680_704,
    "vit_so400m_patch14_siglip_378": 428_225_600,
}
SIGLIP_TANH = {
    "vit_base_patch32_siglip_256": 94_552_320,
    "vit_large_patch16_siglip_512": 316_742_656,
    "vit_so400m_patch16_siglip_256": 427_888_064,
    "vit_so400m_patch16_siglip_384": 428_256_704,
    "vit_so400m_patch16_siglip_512": 428_772_800,
    "vit_giantopt_patch16_siglip_256": 1_163_168_256,
    "vit_giantopt_patch16_siglip_384": 1_163_659_776,
}
SIGLIP_GAP = {
    "vit_base_patch16_siglip_gap_224": 85_797_120,
    "vit_base_patch16_siglip_gap_256": 85_843_200,
    "vit_base_patch16_siglip_gap_384": 86_088_960,
    "vit_base_patch16_siglip_gap_512": 86_433_024,
    "vit_large_patch16_siglip_gap_256": 303_361_024,
    "vit_large_patch16_siglip_gap_384": 303_688_704,
    "vit_so400m_patch14_siglip_gap_224": 412_442_352,
    "vit_so400m_patch14_siglip_gap_378": 412_987_248,
    "vit_so400m_patch14_siglip_gap_448": 413_327_088,
    "vit_so400m_patch14_siglip_gap_896": 416_866_032,
}
SIGLIP_GAP_TANH = {
    "vit_base_patch32_siglip_gap_256": 87_465_216,
    "vit_large_patch16_siglip_gap_512": 304_147_456,
    "vit_so400m_patch16_siglip_gap_256": 412_649_712,
    "vit_so400m_patch16_siglip_gap_384": 413_018_352,
    "vit_so400m_patch16_siglip_gap_512": 413_534_448,
    "vit_giantopt_patch16_siglip_gap_256": 1_134_838_272,
    "vit_giantopt_patch16_siglip_gap_384": 1_135_329_792,
}
DINOV2 = {
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
}
DINOV2_REG = {
    "vit_small_patch14_reg4_dinov2": 22_057_344,
    "vit_base_patch14_reg4_dinov2": 86_582_016,
    "vit_large_patch14_reg4_dinov2": 304_370_688,
}
DINOV2_GIANT = {"vit_giant_patch14_dinov2": 1_136_479_232}
DINOV2_GIANT_REG = {"vit_giant_patch14_reg4_dinov2": 1_136_483_840}
# microsoft/Cream 4a13c40: DeiT with an added encoding, under DeiT's key names.
IRPE = {
    "deit_tiny_patch16_224_ctx_product_50_shared_k": 5_755_816,
    "deit_small_patch16_224_ctx_euc_20_shared_k": 22_113_640,
    "deit_small_patch16_224_ctx_quant_51_shared_k": 22_153_576,
    "deit_small_patch16_224_ctx_cross_56_shared_k": 22_176_616,
    "deit_small_patch16_224_ctx_product_50_shared_k": 22_089_064,
    "deit_small_patch16_224_ctx_product_50_shared_qk": 22_127_464,
    "deit_small_patch16_224_ctx_product_50_shared_qkv": 22_165_864,
    "deit_base_patch16_224_ctx_product_50_shared_k": 86_606_056,
    "deit_base_patch16_224_ctx_product_50_shared_qkv": 86_682_856,
}
# Published ImageNet-1k top-1: iRPE, arXiv:2107.14222.
TOP1 = {
    "deit_tiny_patch16_224_ctx_product_50_shared_k": 73.7,
    "deit_small_patch16_224_ctx_product_50_shared_k": 80.9,
    "deit_small_patch16_224_ctx_product_50_shared_qk": 81.0,
    "deit_small_patch16_224_ctx_product_50_shared_qkv": 81.2,
    "deit_base_patch16_224_ctx_product_50_shared_k": 82.3,
    "deit_base_patch16_224_ctx_product_50_shared_qkv": 82.8,
}
_METHODS = {"euc": "euclidean"}
_FULL = {"vit_base_patch16_siglip_224": "models_full/timm_vit_base_patch16_siglip_224"}
PLAIN = Preprocessing(*HALF, 0.9)


def _register(
    names: dict[str, Any],
    *,
    golden: str,
    preprocessing: Preprocessing = PLAIN,
    classes: int = 1000,
    source: str = "timm 1.0.31",
    dialect: str = "timm",
    **defaults: Any,
) -> None:
    for name, count in names.items():
        count, k = count if isinstance(count, tuple) else (count, classes)
        _, size, patch, *rest = name.split("_")
        own = dict(defaults)
        if rest and rest[-1].isdigit():
            own["img_size"] = int(rest[-1])
        entry = Entry(
            family=VisionTransformer,
            defaults={
                **SIZES[size],
                "patch_size": int(patch.removeprefix("patch")),
                **own,
            },
            preprocessing=preprocessing,
            parameters=count,
            parameters_classes=k,
            source=source,
            dialect=dialect,
            golden=_FULL.get(name, golden),
            top1=TOP1.get(name),
        )
        register(name, entry)


_register(LARGE, golden="models_small/small_vit")
_GAP: dict[str, Any] = {"class_token": False, "global_pool": "avg", "fc_norm": False}
_NOCLS = "models_small/small_vit_nocls"
_MAP: dict[str, Any] = {"class_token": False, "global_pool": "map"}
_MAP_HEAD = "models_small/small_vit_map_head"
_register(GAP, golden=_NOCLS, **_GAP)
for _name, _count in GAP_SCALED.items():
    _squash = "squash" if _name.endswith("384") else "center"
    _register(
        {_name: _count},
        golden=_NOCLS,
        preprocessing=Preprocessing(*HALF, 0.95, crop_mode=_squash),
        qkv_bias=False,
        init_values=1e-6,
        **_GAP,
    )
_register(
    POST_NORM,
    golden="models_small/small_vit_nocls",
    qkv_bias=False,
    init_values=1e-5,
    class_token=False,
    global_pool="avg",
    block_fn="post_norm",
)
_register(
    PARALLEL_SCALING,
    golden="models_small/small_vit_prenorm_quickgelu",
    pre_norm=True,
    no_embed_class=True,
    norm_layer="rmsnorm",
    block_fn="parallel_scaling",
    qkv_bias=False,
    qk_norm=True,
)
_register(SIGLIP, golden=_MAP_HEAD, classes=0, **_MAP)
_register(SIGLIP_TANH, golden=_MAP_HEAD, classes=0, act_layer="gelu_tanh", **_MAP)
_register(SIGLIP_GAP, golden=_NOCLS, classes=0, **_GAP)
_register(SIGLIP_GAP_TANH, golden=_NOCLS, classes=0, act_layer="gelu_tanh", **_GAP)
_dinov2 = partial(
    _register,
    preprocessing=Preprocessing(*IMAGENET, 1.0),
    classes=0,
    img_size=518,
    init_values=1e-5,
)
_GIANT: dict[str, Any] = {
    "embed_dim": 1536,
    "num_heads": 24,
    "mlp_ratio": 2.66667,
    "mlp_layer": "swiglu_packed",
}
_REG: dict[str, Any] = {"reg_tokens": 4, "no_embed_class": True}
_dinov2(DINOV2, golden="models_small/small_vit_layerscale")
_dinov2(DINOV2_REG, golden="models_small/small_vit_reg4_noembedcls", **_REG)
_dinov2(DINOV2_GIANT, golden="models_small/small_vit_layerscale", **_GIANT)
_dinov2(
    DINOV2_GIANT_REG,
    golden="models_small/small_vit_reg4_noembedcls",
    **_GIANT,
    **_REG,
)
for _name, _count in IRPE.items():
    _, _method, _, _, _on = _name.split("224_")[1].split("_")
    _register(
        {_name: _count},
        golden="models_small/small_deit",
        preprocessing=Preprocessing(*IMAGENET, 0.875),
        source="microsoft/Cream 4a13c40",
        pos_embed=f"learn+irpe_ctx_{_METHODS.get(_method, _method)}_shared_{_on}",
    )

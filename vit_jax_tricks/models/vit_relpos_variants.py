"""Model names of ViTs with relative position biases."""

from typing import Any

from vit_jax_tricks.models.registry import HALF, Entry, Preprocessing, register
from vit_jax_tricks.models.vit_relpos import VisionTransformerRelPos
from vit_jax_tricks.models.vit_variants import SIZES


# Counts: timm 1.0.31. ImageNet-1k top-1 of timm's weights, where they exist.
_NORM = {"qkv_bias": False, "fc_norm": True}
_SHARED = {"qkv_bias": False, "shared_rel_pos": True}
_POST = {"qkv_bias": False, "block_fn": "post_norm"}
_CLASS = {"qkv_bias": False, "class_token": True}
_PLUS = {"embed_dim": 896, "num_heads": 14}
NAMES: dict[str, tuple[int, float | None, dict[str, Any]]] = {
    "vit_relpos_small_patch16_224": (21_983_920, 81.476, _NORM),
    "vit_relpos_medium_patch16_224": (38_747_208, 82.462, _NORM),
    "vit_relpos_base_patch16_224": (86_429_560, 82.482, _NORM),
    "vit_srelpos_small_patch16_224": (
        21_973_486,
        81.108,
        _SHARED | {"rel_pos_dim": 384},
    ),
    "vit_srelpos_medium_patch16_224": (
        38_735_856,
        82.256,
        _SHARED | {"rel_pos_dim": 512},
    ),
    "vit_relpos_medium_patch16_cls_224": (
        38_764_616,
        82.558,
        _CLASS | {"rel_pos_dim": 256, "global_pool": "token"},
    ),
    "vit_relpos_base_patch16_cls_224": (
        86_430_328,
        None,
        _CLASS | {"global_pool": "token"},
    ),
    "vit_relpos_base_patch16_clsgap_224": (
        86_430_328,
        82.758,
        _CLASS | {"fc_norm": True},
    ),
    "vit_relpos_small_patch16_rpn_224": (21_974_704, None, _POST),
    "vit_relpos_medium_patch16_rpn_224": (38_734_920, 82.314, _POST),
    "vit_relpos_base_patch16_rpn_224": (86_411_128, None, _POST),
    "vit_relpos_base_patch16_plus_240": (117_380_880, None, _PLUS),
    "vit_relpos_base_patch32_plus_rpn_256": (
        119_423_760,
        79.508,
        _PLUS | {"block_fn": "post_norm"},
    ),
}

for _name, (_count, _top1, _fields) in NAMES.items():
    _, _, _size, _patch, *_rest = _name.split("_")
    _golden = "models_small/small_vit_relpos_mlp"
    if _name == "vit_relpos_small_patch16_224":
        _golden = "models_full/timm_vit_relpos_small_patch16_224"
    register(
        _name,
        Entry(
            family=VisionTransformerRelPos,
            defaults={
                **SIZES[_size],
                "img_size": int(_rest[-1]),
                "patch_size": int(_patch.removeprefix("patch")),
                **_fields,
            },
            preprocessing=Preprocessing(*HALF, 0.9),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden=_golden,
            top1=_top1,
        ),
    )

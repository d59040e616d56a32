"""Model names of the ViT family, with sizes, preprocessing and published counts."""

from typing import Any, TypeAlias

from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.vit import VisionTransformer


Triple: TypeAlias = tuple[float, float, float]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "num_heads": 3},
    "small": {"embed_dim": 384, "num_heads": 6},
    "medium": {"embed_dim": 512, "num_heads": 8},
    "betwixt": {"embed_dim": 640, "num_heads": 10},
    "base": {"embed_dim": 768, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "giant": {"embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11},
    "gigantic": {"embed_dim": 1664, "depth": 48, "num_heads": 16, "mlp_ratio": 64 / 13},
}

# Counts: timm 1.0.31. Crop: that of timm's default weights, where they exist.
VIT = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_384": 5_790_376,
    "vit_small_patch32_224": 22_878_952,
    "vit_small_patch32_384": 22_915_432,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch16_384": 22_196_584,
    "vit_base_patch32_224": 88_224_232,
    "vit_base_patch32_384": 88_297_192,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_base_patch8_224": 86_576_872,
    "vit_large_patch32_224": (305_510_400, 0),
    "vit_large_patch32_384": 306_632_680,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch16_384": 304_715_752,
    "vit_large_patch14_224": 304_203_752,
    "vit_huge_patch14_224": (630_764_800, 0),
}
VIT_DINO = {"vit_small_patch8_224": (21_670_272, 0)}
VIT_PARALLEL = {
    "vit_small_patch16_36x1_224": 64_665_448,
    "vit_small_patch16_18x2_224": 64_665_448,
    "vit_base_patch16_18x2_224": 256_731_880,
}
DEIT = {
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    "deit_base_patch16_384": 86_859_496,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit_base_distilled_patch16_384": 87_630_032,
}
DEIT3 = {
    "deit3_small_patch16_224": 22_059_496,
    "deit3_small_patch16_384": 22_205_416,
    "deit3_medium_patch16_224": 38_849_512,
    "deit3_base_patch16_224": 86_585_320,
    "deit3_base_patch16_384": 86_877_160,
    "deit3_large_patch16_224": 304_374_760,
    "deit3_large_patch16_384": 304_763_880,
    "deit3_huge_patch14_224": 632_126_440,
}
# facebookresearch/deit models_v2.py: the same networks with their own initial
# LayerScale, key names and evaluation crop. Counts are those of timm's equivalents.
DEIT3_OFFICIAL = {
    "deit_small_patch16_LS": 22_059_496,
    "deit_medium_patch16_LS": 38_849_512,
    "deit_base_patch16_LS": 86_585_320,
    "deit_large_patch16_LS": 304_374_760,
    "deit_huge_patch14_LS": 632_126_440,
}


# Models with a reference file of their own size.
_FULL = {
    **{
        name: f"models_full/timm_{name}"
        for name in (
            "vit_tiny_patch16_224",
            "vit_small_patch16_224",
            "vit_base_patch16_224",
            "deit_tiny_patch16_224",
            "deit_small_patch16_224",
            "deit_small_distilled_patch16_224",
            "deit3_small_patch16_224",
        )
    },
    **{
        name: f"models_full/official_{name}"
        for name in ("deit_tiny_distilled_patch16_224", "deit_base_patch16_LS")
    },
}
# Published ImageNet-1k top-1: DeiT arXiv:2012.12877; DeiT-III arXiv:2204.07118.
TOP1 = {
    "deit_tiny_patch16_224": 72.2,
    "deit_small_patch16_224": 79.9,
    "deit_base_patch16_224": 81.8,
    "deit_base_patch16_384": 83.1,
    "deit_tiny_distilled_patch16_224": 74.5,
    "deit_small_distilled_patch16_224": 81.2,
    "deit_base_distilled_patch16_224": 83.4,
    "deit_base_distilled_patch16_384": 84.5,
}


def _register(
    names: dict[str, Any],
    normalisation: tuple[Triple, Triple],
    crop_224: float,
    *,
    golden: str,
    dialect: str = "timm",
    source: str = "timm 1.0.31",
    **defaults: Any,
) -> None:
    mean, std = normalisation
    for name, count in names.items():
        count, classes = count if isinstance(count, tuple) else (count, 1000)
        _, size, *_ = name.split("_")
        patch = next(p for p in name.split("_") if p.startswith("patch"))
        img_size = 384 if name.endswith("384") else 224
        crop = 1.0 if img_size == 384 else crop_224
        fields: dict[str, Any] = {**SIZES[size], "img_size": img_size}
        fields["patch_size"] = int(patch.removeprefix("patch"))
        if "_distilled_" in name:
            fields["distilled"] = True
        if "_36x1_" in name:
            fields["depth"] = 36
        if "_18x2_" in name:
            fields |= {"depth": 18, "parallel": 2}
        entry = Entry(
            family=VisionTransformer,
            defaults=fields | defaults,
            preprocessing=Preprocessing(mean, std, crop),
            parameters=count,
            parameters_classes=classes,
            source=source,
            dialect="timm_parallel" if fields.get("parallel") else dialect,
            golden=_FULL.get(name, f"models_small/{golden}"),
            top1=TOP1.get(name),
        )
        register(name, entry)


_register(VIT, HALF, 0.9, golden="small_vit")
_register(VIT_DINO, IMAGENET, 0.9, golden="small_vit")
_register(
    VIT_PARALLEL, HALF, 0.9, golden="small_official_deit3_paral2", init_values=1e-5
)
_register(DEIT, IMAGENET, 0.9, golden="small_deit")
_register(
    DEIT3,
    IMAGENET,
    0.9,
    golden="small_deit3",
    no_embed_class=True,
    init_values=1e-6,
    drop_path_decay="constant",
)
_register(
    DEIT3_OFFICIAL,
    IMAGENET,
    1.0,
    golden="small_official_deit3",
    dialect="deit",
    source="facebookresearch/deit 7e160fe",
    no_embed_class=True,
    init_values=1e-4,
    drop_path_decay="constant",
)

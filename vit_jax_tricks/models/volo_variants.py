"""Model names of VOLO, with sizes, preprocessing and counts as in timm."""

from typing import Any

from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.volo import VOLO


WIDE = {"embed_dims": (256, 512, 512, 512), "num_heads": (8, 16, 16, 16)}
WIDEST = {"embed_dims": (384, 768, 768, 768), "num_heads": (12, 16, 16, 16)}
SIZES: dict[str, dict[str, Any]] = {
    "d1": {},
    "d2": {"layers": (6, 4, 10, 4), **WIDE},
    "d3": {"layers": (8, 8, 16, 4), **WIDE},
    "d4": {"layers": (8, 8, 16, 4), **WIDEST},
    "d5": {
        "layers": (12, 12, 20, 4),
        **WIDEST,
        "mlp_ratio": 4.0,
        "stem_hidden_dim": 128,
    },
}
# Parameters (timm 1.0.31), evaluation crop, ImageNet-1k top-1 (sail-sg/volo).
NAMES = {
    "volo_d1_224": (26_632_040, 0.96, 84.2),
    "volo_d1_384": (26_777_960, 1.0, 85.2),
    "volo_d2_224": (58_678_336, 0.96, 85.2),
    "volo_d2_384": (58_872_896, 1.0, 86.0),
    "volo_d3_224": (86_325_072, 0.96, 85.4),
    "volo_d3_448": (86_626_128, 1.0, 86.3),
    "volo_d4_224": (192_961_520, 0.96, 85.7),
    "volo_d4_448": (193_413_104, 1.15, 86.8),
    "volo_d5_224": (295_455_584, 0.96, 86.1),
    "volo_d5_448": (295_907_168, 1.15, 87.0),
    "volo_d5_512": (296_091_488, 1.15, 87.1),
}

for _name, (_count, _crop, _top1) in NAMES.items():
    _, _size, _side = _name.split("_")
    register(
        _name,
        Entry(
            family=VOLO,
            defaults={"img_size": int(_side), **SIZES[_size]},
            preprocessing=Preprocessing(*IMAGENET, _crop),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden=(
                "models_full/timm_volo_d1_224"
                if _name == "volo_d1_224"
                else "models_small/small_volo"
            ),
            top1=_top1,
        ),
    )

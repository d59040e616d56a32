"""Model names of BEiT and BEiT v2."""

from vit_jax_tricks.models.beit import Beit
from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)
from vit_jax_tricks.models.vit_variants import SIZES


# Parameters (timm 1.0.31); crop and ImageNet-1k top-1 of timm's default weights.
NAMES = {
    "beit_base_patch16_224": (86_530_984, 0.9, 85.238),
    "beit_base_patch16_384": (86_744_104, 1.0, 86.814),
    "beit_large_patch16_224": (304_430_568, 0.9, 87.486),
    "beit_large_patch16_384": (304_998_888, 1.0, 88.380),
    "beit_large_patch16_512": (305_674_728, 1.0, 88.576),
    "beitv2_base_patch16_224": (86_530_984, 0.9, 86.494),
    "beitv2_large_patch16_224": (304_430_568, 0.95, 88.406),
}

for _name, (_count, _crop, _top1) in NAMES.items():
    _family, _size, _, _image = _name.split("_")
    _first = _family == "beit" and _size == "base"
    register(
        _name,
        Entry(
            family=Beit,
            defaults={
                **SIZES[_size],
                "img_size": int(_image),
                "use_abs_pos_emb": False,
                "use_rel_pos_bias": True,
                "init_values": 0.1 if _first else 1e-5,
            },
            preprocessing=Preprocessing(
                *(HALF if _family == "beit" else IMAGENET), _crop
            ),
            parameters=_count,
            parameters_classes=1000,
            source="timm 1.0.31",
            dialect="timm",
            golden="models_small/small_vit_relpos_bias",
            top1=_top1,
        ),
    )

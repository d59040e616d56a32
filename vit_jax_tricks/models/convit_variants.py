"""Model names of the ConViT family, with sizes, preprocessing and published counts."""

from vit_jax_tricks.models.convit import ConViT
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register


# Heads, parameters, published ImageNet-1k top-1 (arXiv:2103.10697, table 1).
CONVIT = {
    "convit_tiny": (4, 5_710_512, 73.1),
    "convit_small": (9, 27_777_322, 81.3),
    "convit_base": (16, 86_540_040, 82.4),
}
_FULL = {
    "convit_tiny": "official_convit_tiny",
    "convit_small": "official_convit_small",
    "convit_base": "timm_convit_base",
}

for _name, (_heads, _parameters, _top1) in CONVIT.items():
    register(
        _name,
        Entry(
            family=ConViT,
            defaults={"num_heads": _heads},
            preprocessing=Preprocessing(*IMAGENET, 0.875),
            parameters=_parameters,
            parameters_classes=1000,
            source="facebookresearch/convit 0a9340a",
            dialect="timm",
            golden=f"models_full/{_FULL[_name]}",
            top1=_top1,
        ),
    )

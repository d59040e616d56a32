"""Model registry: importing this package registers every family's model names."""

from vit_jax_tricks.models import (
    beit_variants,
    cait_variants,
    clip_variants,
    coatnet_variants,
    convit_variants,
    eva_variants,
    lv_vit_variants,
    swin_variants,
    t2t_vit_variants,
    vit_relatives,
    vit_relpos_variants,
    vit_variants,
    volo_variants,
)
from vit_jax_tricks.models.registry import create_model, list_models, preprocessing
from vit_jax_tricks.models.stacking import stack_blocks, unstack_blocks


__all__ = [
    "beit_variants",
    "cait_variants",
    "clip_variants",
    "coatnet_variants",
    "convit_variants",
    "create_model",
    "eva_variants",
    "list_models",
    "lv_vit_variants",
    "preprocessing",
    "stack_blocks",
    "swin_variants",
    "t2t_vit_variants",
    "unstack_blocks",
    "vit_relatives",
    "vit_relpos_variants",
    "vit_variants",
    "volo_variants",
]

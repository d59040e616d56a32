"""Model registry: importing this package registers every family's model names."""

from vit_jax_tricks.models import (
    beit,
    cait,
    clip,
    coatnet,
    convit,
    eva,
    lv_vit,
    swin,
    swin_v2,
    t2t_vit,
    vit_relatives,
    vit_relpos,
    vit_variants,
    volo,
)
from vit_jax_tricks.models.feature_maps import Level, features
from vit_jax_tricks.models.registry import create_model, list_models, preprocessing
from vit_jax_tricks.models.stacking import stack_blocks, unstack_blocks


__all__ = [
    "Level",
    "beit",
    "cait",
    "clip",
    "coatnet",
    "convit",
    "create_model",
    "eva",
    "features",
    "list_models",
    "lv_vit",
    "preprocessing",
    "stack_blocks",
    "swin",
    "swin_v2",
    "t2t_vit",
    "unstack_blocks",
    "vit_relatives",
    "vit_relpos",
    "vit_variants",
    "volo",
]

"""Models by name: every family registers its names when this package is imported."""

from vit_jax_tricks.models import swin_variants, vit_variants
from vit_jax_tricks.models.registry import create_model, list_models, preprocessing
from vit_jax_tricks.models.stacking import stack_blocks, unstack_blocks


__all__ = [
    "create_model",
    "list_models",
    "preprocessing",
    "stack_blocks",
    "swin_variants",
    "unstack_blocks",
    "vit_variants",
]

"""The maths of the layers: pure functions on arrays, without Flax or configs."""

from vit_jax_tricks.models.layers.functional.activations import ACTIVATIONS, quick_gelu
from vit_jax_tricks.models.layers.functional.attention import (
    attention,
    attention_weights,
)
from vit_jax_tricks.models.layers.functional.drop import (
    drop_path,
    drop_path_rates,
    patch_dropout,
    scale_kept,
)
from vit_jax_tricks.models.layers.functional.norm import layer_norm
from vit_jax_tricks.models.layers.functional.patches import patch_embed, patchify
from vit_jax_tricks.models.layers.functional.precision import at_least_float32


__all__ = [
    "ACTIVATIONS",
    "at_least_float32",
    "attention",
    "attention_weights",
    "drop_path",
    "drop_path_rates",
    "layer_norm",
    "patch_dropout",
    "patch_embed",
    "patchify",
    "quick_gelu",
    "scale_kept",
]

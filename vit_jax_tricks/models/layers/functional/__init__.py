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
from vit_jax_tricks.models.layers.functional.norm import l2_normalize, layer_norm
from vit_jax_tricks.models.layers.functional.patches import patch_embed, patchify
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.models.layers.functional.relative_position import (
    log_spaced_coords,
    relative_bias,
    relative_position_index,
)
from vit_jax_tricks.models.layers.functional.resample import resize_bicubic
from vit_jax_tricks.models.layers.functional.windows import (
    fit_window,
    masked_bias,
    merge_neighbours,
    over_windows,
    shift_mask,
    window_partition,
    window_reverse,
)


__all__ = [
    "ACTIVATIONS",
    "at_least_float32",
    "attention",
    "attention_weights",
    "drop_path",
    "drop_path_rates",
    "fit_window",
    "l2_normalize",
    "layer_norm",
    "log_spaced_coords",
    "masked_bias",
    "merge_neighbours",
    "over_windows",
    "patch_dropout",
    "patch_embed",
    "patchify",
    "quick_gelu",
    "relative_bias",
    "relative_position_index",
    "resize_bicubic",
    "scale_kept",
    "shift_mask",
    "window_partition",
    "window_reverse",
]

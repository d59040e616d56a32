"""Layer maths: pure functions on arrays, without Flax or configs."""

from vit_jax_tricks.models.layers.functional.activations import ACTIVATIONS, quick_gelu
from vit_jax_tricks.models.layers.functional.attention import (
    attention,
    attention_weights,
    gated_position_weights,
    mix_heads,
    talking_heads_attention,
    with_key_bias,
)
from vit_jax_tricks.models.layers.functional.drop import (
    drop_path,
    drop_path_rates,
    kept_tokens,
    layer_scale_start,
    patch_dropout,
    scale_kept,
)
from vit_jax_tricks.models.layers.functional.gating import gated, spread
from vit_jax_tricks.models.layers.functional.norm import (
    l2_normalize,
    layer_norm,
    rms_norm,
)
from vit_jax_tricks.models.layers.functional.patches import patch_embed, patchify
from vit_jax_tricks.models.layers.functional.position_convit import (
    local_kernel,
    position_scores,
    rel_indices,
)
from vit_jax_tricks.models.layers.functional.position_irpe import (
    IRPE_RATIOS,
    irpe_bias,
    irpe_buckets,
    irpe_contextual,
    irpe_values,
    piecewise_index,
)
from vit_jax_tricks.models.layers.functional.position_rotary import (
    mixed_frequencies,
    rotary_axial,
    rotary_coordinates,
    rotary_dinov3,
    rotary_mixed,
    rotary_table,
    rotate,
)
from vit_jax_tricks.models.layers.functional.position_sincos import (
    SINCOS_FORMS,
    sincos_2d,
)
from vit_jax_tricks.models.layers.functional.precision import at_least_float32
from vit_jax_tricks.models.layers.functional.relative_position import (
    log_spaced_coords,
    relative_bias,
    relative_position_index,
)
from vit_jax_tricks.models.layers.functional.resample import (
    resample_matrix,
    resize_table,
)
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
    "IRPE_RATIOS",
    "SINCOS_FORMS",
    "at_least_float32",
    "attention",
    "attention_weights",
    "drop_path",
    "drop_path_rates",
    "fit_window",
    "gated",
    "gated_position_weights",
    "irpe_bias",
    "irpe_buckets",
    "irpe_contextual",
    "irpe_values",
    "kept_tokens",
    "l2_normalize",
    "layer_norm",
    "layer_scale_start",
    "local_kernel",
    "log_spaced_coords",
    "masked_bias",
    "merge_neighbours",
    "mix_heads",
    "mixed_frequencies",
    "over_windows",
    "patch_dropout",
    "patch_embed",
    "patchify",
    "piecewise_index",
    "position_scores",
    "quick_gelu",
    "rel_indices",
    "relative_bias",
    "relative_position_index",
    "resample_matrix",
    "resize_table",
    "rms_norm",
    "rotary_axial",
    "rotary_coordinates",
    "rotary_dinov3",
    "rotary_mixed",
    "rotary_table",
    "rotate",
    "scale_kept",
    "shift_mask",
    "sincos_2d",
    "spread",
    "talking_heads_attention",
    "window_partition",
    "window_reverse",
    "with_key_bias",
]

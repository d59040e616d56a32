"""Checks of VOLO's fields."""

from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.checks import (
    check_choices,
    check_least,
    check_patches,
    check_rates,
)


def check_volo(model: Any) -> None:
    """Raises UserError if the fields of a `VOLO` contradict one another."""
    least = ("patch_size", "in_chans", "stem_hidden_dim", "pooling_scale")
    check_least(model, {**dict.fromkeys(least, 1), "num_classes": 0})
    check_rates(model)
    check_patches(model)
    check_choices(model, {"global_pool": ("token", "avg")})
    if model.patch_size not in (4, 8, 16):
        raise UserError(f"patch_size={model.patch_size} must be 4, 8 or 16.")
    stages = len(model.layers)
    if not stages or min(model.layers) < 1:
        raise UserError(f"layers={model.layers} needs 1 or more blocks in each stage.")
    lengths = {
        "embed_dims": len(model.embed_dims),
        "num_heads": len(model.num_heads),
        "mlp_ratio": len(model.mlp_ratios),
        # Surplus entries are harmless: timm's own defaults have four.
        "downsamples": min(stages, len(model.downsamples)),
        "outlook_attention": min(stages, len(model.outlook_attention)),
    }
    for field, length in lengths.items():
        if length != stages:
            raise UserError(
                f"{field} has {length} entries, layers has {stages}; give one for each "
                "stage."
            )
    for width, heads in zip(model.embed_dims, model.num_heads, strict=True):
        if heads < 1 or width < 1 or width % heads:
            raise UserError(
                f"embed_dims={model.embed_dims} are not divisible by num_heads="
                f"{model.num_heads}; change either."
            )
    _check_maps(model)
    if set(model.post_layers or ()) - {"ca"}:
        raise UserError(f'post_layers={model.post_layers}: entries are "ca".')
    if model.post_layers is None and model.global_pool == "token":
        raise UserError(
            'post_layers=None needs global_pool="avg", since there is no class token.'
        )
    if model.use_mix_token and not (model.use_aux_head and model.post_layers):
        raise UserError(
            "use_mix_token=True needs use_aux_head=True and post_layers: without them "
            "the pasted tokens have no labels."
        )
    if model.use_mix_token and model.global_pool != "token":
        raise UserError('use_mix_token=True needs global_pool="token".')


def _check_maps(model: Any) -> None:
    """Checks that widths and maps fit one another."""
    h, w, _ = model.image_shape
    size, width = [h // model.patch_size, w // model.patch_size], model.embed_dims[0]
    last = 0
    for part, stage in enumerate(model.parts):
        if part == 2 and (tuple(size), width) != (model.grid, model.embed_dims[-1]):
            raise UserError(
                f"positions {model.grid} of {model.embed_dims[-1]} channels do not fit "
                f"the map {tuple(size)} of {width}; change pooling_scale, downsamples, "
                "embed_dims or img_size."
            )
        if stage is not None:
            last = stage
            if model.embed_dims[stage] != width:
                raise UserError(
                    f"embed_dims={model.embed_dims} change at stage {stage}, but no "
                    "downsampling precedes it."
                )
        else:
            size = [n // 2 for n in size]
            if last + 1 == len(model.embed_dims) or min(size) < 1:
                raise UserError(
                    f"downsamples={model.downsamples} leaves no map or no stage after "
                    f"stage {last}."
                )
            width = model.embed_dims[last + 1]
    if model.use_mix_token and tuple(size) != model.grid:
        raise UserError(
            f"use_mix_token=True needs the last map, {tuple(size)}, to be as large as "
            f"that of the positions, {model.grid}; change downsamples or pooling_scale."
        )

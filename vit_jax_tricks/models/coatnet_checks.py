"""Checks of CoAtNet's fields."""

from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.checks import check_choices, check_least, check_rates
from vit_jax_tricks.models.layers import functional, initializers
from vit_jax_tricks.models.layers.conv import NORMS, PADDINGS
from vit_jax_tricks.models.layers.functional.pooling import DOWNSAMPLES, GLOBAL_POOLS
from vit_jax_tricks.models.layers.mbconv import STRIDE_MODES, round_channels


ACTIVATIONS = tuple(functional.ACTIVATIONS)
CHOICES = {
    "global_pool": tuple(GLOBAL_POOLS),
    "weight_init": initializers.SCHEMES,
    "conv_block_type": ("mbconv", "convnext"),
    "conv_stride_mode": STRIDE_MODES,
    "conv_pool_type": DOWNSAMPLES,
    "conv_downsample_pool_type": (*DOWNSAMPLES, ""),
    "conv_padding": PADDINGS,
    "conv_attn_layer": ("se", ""),
    "conv_attn_act_layer": ACTIVATIONS,
    "conv_act_layer": ACTIVATIONS,
    "conv_norm_layer": (*NORMS, ""),
    "transformer_pool_type": DOWNSAMPLES,
    "transformer_rel_pos_type": ("bias", "mlp", "bias_tf", ""),
    "transformer_act_layer": ACTIVATIONS,
    "transformer_norm_layer": tuple(NORMS),
}
LEAST = {
    "in_chans": 1,
    "num_classes": 0,
    "conv_kernel_size": 1,
    "conv_group_size": 0,
    "transformer_dim_head": 1,
    "transformer_rel_pos_dim": 1,
}


def check_coatnet(model: Any) -> None:
    """Raises UserError if the fields of a `CoAtNet` contradict one another."""
    check_least(model, LEAST)
    check_rates(model)
    check_choices(model, CHOICES)
    stages = len(model.embed_dim)
    for field in ("embed_dim", "depths", "block_type"):
        value = getattr(model, field)
        if len(value) != stages or not value:
            raise UserError(
                f"{field}={value} has {len(value)} stages, embed_dim has {stages}; "
                "give one entry for each stage."
            )
    if min(*model.depths, *model.embed_dim) < 1:
        raise UserError(
            f"depths={model.depths} and embed_dim={model.embed_dim} must be 1 or more."
        )
    for stage in range(stages):
        _check_stage(model, stage)


def _check_stage(model: Any, stage: int) -> None:
    types = model.block_types(stage)
    if not set(types) <= {"C", "T"}:
        raise UserError(
            f'block_type={model.block_type} is not made of "C" (convolution) and "T" '
            "(transformer)."
        )
    stem = model.stem_width
    widths = (stem if isinstance(stem, int) else stem[-1], *model.embed_dim)
    width, features = widths[stage : stage + 2]
    first = features if model.transformer_expand_first else width
    attended = [features if i else first for i, kind in enumerate(types) if kind == "T"]
    for d in attended:
        if d % model.transformer_dim_head:
            raise UserError(
                f"attention over {d} channels in stage {stage} is not divisible by "
                f"transformer_dim_head={model.transformer_dim_head}; change either."
            )
    if "C" in types:
        _check_convolutions(model, width, features)
    _check_size(model, stage, types)


def _check_convolutions(model: Any, width: int, features: int) -> None:
    if model.conv_block_type == "convnext":
        if model.conv_stride_mode == "1x1":
            raise UserError('conv_stride_mode="1x1" needs conv_block_type="mbconv".')
        if features % width:
            raise UserError(
                f'conv_block_type="convnext" cannot widen {width} channels to '
                f"{features}; use a multiple."
            )
        return
    if model.conv_kernel_size % 2 == 0:
        raise UserError(f"conv_kernel_size={model.conv_kernel_size} must be odd.")
    base = features if model.conv_expand_output else width
    mid = round_channels(base * model.conv_expand_ratio)
    if model.conv_group_size and mid % model.conv_group_size:
        raise UserError(
            f"conv_group_size={model.conv_group_size} does not divide the {mid} "
            "channels of the convolution; use 1 for a depthwise one."
        )


def _check_size(model: Any, stage: int, types: tuple[str, ...]) -> None:
    """Checks that both branches of the block that halves the map give the same size."""
    pools = [model.transformer_pool_type] if types[0] == "T" else []
    if types[0] == "C":
        mbconv = model.conv_block_type == "mbconv"
        pools = [model.conv_pool_type if mbconv else "avg2"]
        if model.conv_stride_mode == "pool":
            pools.append(model.conv_downsample_pool_type or model.conv_pool_type)
        if mbconv and model.conv_padding == "same":
            pools = []
    h, w, _ = model.image_shape
    odd = [n for n in (h, w) if n % 2 or -(-n // 2 ** (stage + 1)) % 2]
    if h % 2 or w % 2 or (odd and any(pool.endswith("2") for pool in pools)):
        unit = 2 ** (len(model.depths) + 1)
        raise UserError(
            f"img_size={model.img_size} gives maps of odd size before stage {stage}, "
            f"which cannot be halved; use a multiple of {unit}, such as "
            f"img_size={max(1, round(h / unit)) * unit}."
        )

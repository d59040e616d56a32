"""Model names of CoAtNet: the paper's sizes and timm's variants."""

from typing import Any

from vit_jax_tricks.models.coatnet import CoAtNet
from vit_jax_tricks.models.registry import (
    HALF,
    IMAGENET,
    Entry,
    Preprocessing,
    register,
)


PAPER = {
    "coatnet_0_224": (25_036_820, (96, 192, 384, 768), (2, 3, 5, 2), 64),
    "coatnet_1_224": (42_225_776, (96, 192, 384, 768), (2, 6, 14, 2), 64),
    "coatnet_2_224": (74_684_744, (128, 256, 512, 1024), (2, 6, 14, 2), 128),
    "coatnet_3_224": (166_966_264, (192, 384, 768, 1536), (2, 6, 14, 2), 192),
    "coatnet_4_224": (275_425_288, (192, 384, 768, 1536), (2, 12, 28, 2), 192),
    "coatnet_5_224": (687_472_008, (256, 512, 1280, 2048), (2, 12, 28, 2), 192),
}

# timm's widths by size.
NANO: dict[str, Any] = {"embed_dim": (64, 128, 256, 512), "stem_width": (32, 64)}
ZERO: dict[str, Any] = {
    "embed_dim": (96, 192, 384, 768),
    "depths": (2, 3, 7, 2),
    "stem_width": (32, 64),
}
ONE: dict[str, Any] = {**ZERO, "depths": (2, 6, 14, 2)}
TWO: dict[str, Any] = {
    **ONE,
    "embed_dim": (128, 256, 512, 1024),
    "stem_width": (64, 128),
}
THREE: dict[str, Any] = {
    **ONE,
    "embed_dim": (192, 384, 768, 1536),
    "stem_width": (96, 192),
}
# Shared by timm's variants: widths in the convolutions follow the input.
COMMON: dict[str, Any] = {
    "conv_expand_output": False,
    "conv_act_layer": "silu",
    "transformer_expand_first": False,
}
# timm's `_rw_max_cfg` as used by the smallest variants, and `_rw_coat_cfg`.
SMALL: dict[str, Any] = COMMON | NANO
RW: dict[str, Any] = COMMON | {
    "conv_pre_norm_act": True,
    "conv_output_bias": False,
    "conv_stride_mode": "pool",
    "conv_attn_act_layer": "relu",
}
DW = {"conv_stride_mode": "dw"}
EARLY = {"conv_attn_early": True, "transformer_shortcut_bias": False}
SILU = {"conv_attn_act_layer": "silu"}
SCALED = {"transformer_init_values": 1e-6}


def _mlp(hidden: int) -> dict[str, Any]:
    return {"transformer_rel_pos_type": "mlp", "transformer_rel_pos_dim": hidden}


TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "coatnet_pico_rw_224": (10_851_364, {**SMALL, "depths": (2, 3, 5, 2)}),
    "coatnet_nano_rw_224": (
        15_141_244,
        {**SMALL, "depths": (3, 4, 6, 3), "conv_stride_mode": "pool"},
    ),
    "coatnet_0_rw_224": (27_435_562, {**RW, **ZERO, **EARLY}),
    "coatnet_1_rw_224": (41_721_502, {**RW, **ONE, **EARLY, **DW}),
    "coatnet_2_rw_224": (73_868_400, {**RW, **TWO, **SILU, **DW}),
    "coatnet_3_rw_224": (181_805_305, {**RW, **THREE, **SILU, **DW, **SCALED}),
    "coatnet_bn_0_rw_224": (
        27_435_562,
        {**RW, **ZERO, **EARLY, **DW, "transformer_norm_layer": "batchnorm2d"},
    ),
    "coatnet_rmlp_nano_rw_224": (
        15_145_116,
        {**SMALL, "depths": (3, 4, 6, 3), **_mlp(384)},
    ),
    "coatnet_rmlp_0_rw_224": (27_446_074, {**RW, **ZERO, **DW, **_mlp(512)}),
    "coatnet_rmlp_1_rw_224": (
        41_691_982,
        {
            **RW,
            **ONE,
            **EARLY,
            **_mlp(384),
            "conv_pool_type": "max",
            "transformer_pool_type": "max",
        },
    ),
    "coatnet_rmlp_1_rw2_224": (41_724_622, {**RW, **ONE, **DW, **_mlp(512)}),
    **{
        f"coatnet_rmlp_2_rw_{size}": (
            73_881_264,
            {**RW, **TWO, **SILU, **DW, **SCALED, **_mlp(512)},
        )
        for size in (224, 384)
    },
    "coatnet_rmlp_3_rw_224": (
        165_152_788,
        {**RW, **THREE, **SILU, **DW, **SCALED, **_mlp(512)},
    ),
    "coatnet_nano_cc_224": (
        13_757_328,
        {
            **RW,
            **NANO,
            "depths": (3, 4, 6, 3),
            "block_type": ("C", "C", ("C", "T"), ("C", "T")),
        },
    ),
    "coatnext_nano_rw_224": (
        14_701_244,
        {
            **NANO,
            "depths": (3, 4, 6, 3),
            "weight_init": "normal",
            "conv_block_type": "convnext",
            "conv_init_values": 1e-5,
            "transformer_expand_first": False,
        },
    ),
}
# ImageNet-1k top-1: table 4 of the paper for its sizes (no weights were released), and
# timm's results-imagenet.csv with its default weights for the others.
TOP1 = {
    "coatnet_0_224": 81.6,
    "coatnet_1_224": 83.3,
    "coatnet_2_224": 84.1,
    "coatnet_3_224": 84.5,
    "coatnet_nano_rw_224": 81.704,
    "coatnet_0_rw_224": 82.396,
    "coatnet_1_rw_224": 83.620,
    "coatnet_2_rw_224": 86.582,
    "coatnet_bn_0_rw_224": 82.394,
    "coatnet_rmlp_nano_rw_224": 82.064,
    "coatnet_rmlp_1_rw_224": 83.350,
    "coatnet_rmlp_1_rw2_224": 84.940,
    "coatnet_rmlp_2_rw_224": 86.538,
    "coatnet_rmlp_2_rw_384": 87.388,
    "coatnext_nano_rw_224": 81.998,
}
CROP = {
    "coatnet_nano_rw_224": 0.9,
    "coatnet_rmlp_nano_rw_224": 0.9,
    "coatnext_nano_rw_224": 0.9,
    "coatnet_rmlp_2_rw_384": 1.0,
}
CLASSES = {"coatnet_3_rw_224": 11821}  # timm's weights are for ImageNet-12k
FULL = ("coatnet_0_224", "coatnet_0_rw_224", "coatnet_rmlp_1_rw_224")


def _golden(name: str) -> str:
    if name in FULL:
        return f"models_full/timm_{name}"
    small = {"coatnext": "small_coatnext", "coatnet_bn": "small_coatnet_bn"}
    small |= {"coatnet_rmlp": "small_coatnet_rmlp"}
    kind = "small_coatnet_rw0" if name in TIMM else "small_coatnet_paper"
    found = (golden for start, golden in small.items() if name.startswith(start))
    return f"models_small/{next(found, kind)}"


def _register(name: str, parameters: int, fields: dict[str, Any]) -> None:
    size = int(name.rsplit("_", 1)[-1])
    mean, std = IMAGENET if name == "coatnet_bn_0_rw_224" else HALF
    entry = Entry(
        family=CoAtNet,
        defaults={"img_size": size, **fields},
        preprocessing=Preprocessing(
            mean,
            std,
            CROP.get(name, 0.95),
            crop_mode="squash" if size == 384 else "center",
        ),
        parameters=parameters,
        parameters_classes=CLASSES.get(name, 1000),
        source="timm 1.0.31",
        dialect="timm",
        golden=_golden(name),
        top1=TOP1.get(name),
    )
    register(name, entry)


for _name, (_count, _widths, _depths, _stem) in PAPER.items():
    _fields = {"embed_dim": _widths, "depths": _depths, "stem_width": _stem}
    _register(_name, _count, {**_fields, "head_hidden_size": _widths[-1]})
for _name, (_count, _fields) in TIMM.items():
    _register(_name, _count, _fields)

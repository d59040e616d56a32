"""Model names of CLIP's image towers: timm's, and OpenAI's own without a head bias.

The weights of OpenAI, MetaCLIP and most of DFN were trained with the activation of the
`quickgelu` and `clip_vit_*_image` names; those of LAION and DataComp use the others.
"""

from typing import Any

from vit_jax_tricks.models.registry import CLIP, Entry, Preprocessing, register
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.models.vit_variants import SIZES as VIT_SIZES


SIZES: dict[str, dict[str, Any]] = {
    **VIT_SIZES,
    "xsmall": {"embed_dim": 256, "depth": 10, "num_heads": 4},
    "base_plus": {"embed_dim": 896, "num_heads": 14},
}
# Parameters and classes (timm 1.0.31), crop and crop mode of OpenAI's weights in timm,
# or of timm's default weights where OpenAI has none.
TIMM = {
    "vit_xsmall_patch16_clip_224": (8_277_504, 512, 0.9),
    "vit_medium_patch32_clip_224": (39_692_288, 512, 0.9),
    "vit_medium_patch16_clip_224": (38_587_904, 512, 0.9),
    "vit_betwixt_patch32_clip_224": (61_411_712, 512, 0.9),
    "vit_base_patch32_clip_224": (88_225_000, 1000, 0.9),
    "vit_base_patch32_clip_256": (87_861_248, 512, 1.0),
    "vit_base_patch32_clip_384": (88_297_960, 1000, 1.0),
    "vit_base_patch32_clip_448": (88_337_896, 1000, 1.0),
    "vit_base_patch16_clip_224": (86_568_424, 1000, 0.9),
    "vit_base_patch16_clip_384": (86_860_264, 1000, 1.0, "squash"),
    "vit_base_patch16_plus_clip_240": (117_214_464, 640, 1.0),
    "vit_large_patch14_clip_224": (304_204_776, 1000, 1.0),
    "vit_large_patch14_clip_336": (304_532_456, 1000, 1.0),
    "vit_huge_patch14_clip_224": (632_047_080, 1000, 1.0),
    "vit_huge_patch14_clip_336": (632_456_680, 1000, 1.0, "squash"),
    "vit_huge_patch14_clip_378": (632_683_264, 1024, 1.0),
    "vit_giant_patch14_clip_224": (1_012_646_656, 1024, 1.0),
    "vit_gigantic_patch14_clip_224": (1_844_908_544, 1280, 1.0),
    "vit_gigantic_patch14_clip_378": (1_845_695_616, 1280, 1.0, "squash"),
    "vit_base_patch32_clip_quickgelu_224": (87_849_728, 512, 0.9),
    "vit_base_patch16_clip_quickgelu_224": (86_193_152, 512, 0.9),
    "vit_large_patch14_clip_quickgelu_224": (303_966_976, 768, 1.0),
    "vit_large_patch14_clip_quickgelu_336": (304_294_656, 768, 1.0),
    "vit_huge_patch14_clip_quickgelu_224": (632_077_824, 1024, 1.0),
    "vit_huge_patch14_clip_quickgelu_378": (632_683_264, 1024, 1.0),
    "vit_gigantic_patch14_clip_quickgelu_224": (1_844_908_544, 1280, 1.0),
}
# openai/CLIP: size, patch, image, width of the joint embedding, parameters.
OPENAI = {
    "clip_vit_b32_image": ("base", 32, 224, 512, 87_849_216),
    "clip_vit_b16_image": ("base", 16, 224, 512, 86_192_640),
    "clip_vit_l14_image": ("large", 14, 224, 768, 303_966_208),
    "clip_vit_l14_336_image": ("large", 14, 336, 768, 304_293_888),
}


def _entry(
    fields: dict[str, Any], parameters: int, classes: int, crop: Any, **more: Any
) -> Entry:
    return Entry(
        family=VisionTransformer,
        defaults={"pre_norm": True, "norm_eps": 1e-5, **fields},
        preprocessing=Preprocessing(*CLIP, *crop),
        parameters=parameters,
        parameters_classes=classes,
        **more,
    )


for _name, (_parameters, _classes, _crop, *_mode) in TIMM.items():
    _, _size, _patch, *_rest, _image = _name.split("_")
    register(
        _name,
        _entry(
            {
                **SIZES[f"{_size}_plus" if "plus" in _rest else _size],
                "patch_size": int(_patch.removeprefix("patch")),
                "img_size": int(_image),
                "act_layer": "quick_gelu" if "quickgelu" in _rest else "gelu",
            },
            _parameters,
            _classes,
            (_crop, "bicubic", *_mode),
            source="timm 1.0.31",
            dialect="timm",
            golden="models_full/timm_vit_base_patch16_clip_224"
            if _name == "vit_base_patch16_clip_224"
            else "models_small/small_vit_prenorm_quickgelu",
        ),
    )
for _name, (_size, _pixels, _img_size, _width, _parameters) in OPENAI.items():
    register(
        _name,
        _entry(
            {
                **SIZES[_size],
                "patch_size": _pixels,
                "img_size": _img_size,
                "act_layer": "quick_gelu",
                "head_bias": False,
            },
            _parameters,
            _width,
            (1.0,),
            source="openai/CLIP d05afc4",
            dialect="openai",
            golden="clip/clip_vit_b32"
            if _name == "clip_vit_b32_image"
            else "clip/clip_small",
        ),
    )

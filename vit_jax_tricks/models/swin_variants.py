"""Model names of Swin and Swin V2, with sizes, preprocessing and published counts."""

from typing import Any

import flax.linen as nn

from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.swin import SwinTransformer
from vit_jax_tricks.models.swin_v2 import SwinTransformerV2


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}

# Counts: timm 1.0.31. Top-1: the README of microsoft/Swin-Transformer, for the weights
# trained on ImageNet-1k only if they exist, otherwise pre-trained on ImageNet-22k.
SWIN = {
    "swin_tiny_patch4_window7_224": (28_288_354, 81.2),
    "swin_small_patch4_window7_224": (49_606_258, 83.2),
    "swin_base_patch4_window7_224": (87_768_224, 83.5),
    "swin_base_patch4_window12_384": (87_903_584, 84.5),
    "swin_large_patch4_window7_224": (196_532_476, 86.3),
    "swin_large_patch4_window12_384": (196_735_516, 87.3),
}
# Windows found by architecture search: Chen et al., 2021, arXiv:2111.14725.
SWIN_S3 = {
    "swin_s3_tiny_224": (28_328_674, SIZES["tiny"], (7, 7, 14, 7)),
    "swin_s3_small_224": (49_737_298, SIZES["small"], (14, 14, 14, 7)),
    "swin_s3_base_224": (
        71_125_762,
        SIZES["small"] | {"depths": (2, 2, 30, 2)},
        (7, 7, 14, 7),
    ),
}
SWIN_V2 = {
    "swinv2_tiny_window8_256": (28_347_154, 81.8),
    "swinv2_tiny_window16_256": (28_347_154, 82.8),
    "swinv2_small_window8_256": (49_728_418, 83.7),
    "swinv2_small_window16_256": (49_728_418, 84.1),
    "swinv2_base_window8_256": (87_918_816, 84.2),
    "swinv2_base_window16_256": (87_918_816, 84.6),
    "swinv2_base_window12to16_192to256": (87_918_816, 86.2),
    "swinv2_base_window12to24_192to384": (87_918_816, 87.1),
    "swinv2_large_window12to16_192to256": (196_739_932, 86.9),
    "swinv2_large_window12to24_192to384": (196_739_932, 87.6),
}
# Pre-trained on ImageNet-22k, with a head of its 21,841 classes.
SWIN_V2_22K = {
    "swinv2_base_window12_192": 109_280_841,
    "swinv2_large_window12_192": 228_772_549,
}
_FULL = {
    "swin_tiny_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
    "swinv2_tiny_window8_256",
}


def _register(
    name: str,
    family: type[nn.Module],
    parameters: int,
    golden: str,
    fields: dict[str, Any],
    *,
    classes: int = 1000,
    top1: float | None = None,
) -> None:
    img_size = int(name.split("_")[-1].split("to")[-1])
    entry = Entry(
        family=family,
        defaults=fields | {"img_size": img_size},
        preprocessing=Preprocessing(*IMAGENET, 1.0 if img_size == 384 else 0.9),
        parameters=parameters,
        parameters_classes=classes,
        source="timm 1.0.31",
        dialect="timm",
        golden=f"models_full/timm_{name}" if name in _FULL else golden,
        top1=top1,
    )
    register(name, entry)


def _window(name: str) -> int:
    part = next(p for p in name.split("_") if p.startswith("window"))
    return int(part.removeprefix("window").split("to")[-1])


def _v2_fields(name: str) -> dict[str, Any]:
    fields = SIZES[name.split("_")[1]] | {"window_size": _window(name)}
    if "12to" in name:  # the last map of pre-training was smaller than its window
        fields["pretrained_window_sizes"] = (12, 12, 12, 6)
    return fields


for _name, (_count, _top1) in SWIN.items():
    _fields = SIZES[_name.split("_")[1]] | {"window_size": _window(_name)}
    _golden = "models_full/official_swin_small_patch4_window7_224"
    _golden = _golden if "_small_" in _name else "models_small/small_swin"
    _register(_name, SwinTransformer, _count, _golden, _fields, top1=_top1)
for _name, (_count, _size, _windows) in SWIN_S3.items():
    _fields = _size | {"window_size": _windows}
    _register(_name, SwinTransformer, _count, "models_small/small_swin", _fields)
for _name, (_count, _top1) in SWIN_V2.items():
    _golden, _fields = "models_small/small_swinv2", _v2_fields(_name)
    _register(_name, SwinTransformerV2, _count, _golden, _fields, top1=_top1)
for _name, _count in SWIN_V2_22K.items():
    _golden, _fields = "models_small/small_swinv2", _v2_fields(_name)
    _register(_name, SwinTransformerV2, _count, _golden, _fields, classes=21_841)

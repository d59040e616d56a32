"""Image augmentation on the device: batched, pure, one draw an image."""

from vit_jax_tricks.augment.mix import (
    blend,
    cutmix,
    cutmix_box,
    cutmix_with,
    mix_weights,
    mixup,
    mixup_or_cutmix,
    mixup_with,
)


__all__ = [
    "blend",
    "cutmix",
    "cutmix_box",
    "cutmix_with",
    "mix_weights",
    "mixup",
    "mixup_or_cutmix",
    "mixup_with",
]

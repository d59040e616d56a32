"""Image augmentation on the device: batched, pure, one draw an image."""

from vit_jax_tricks.augment.affine import bilinear_sample, random_affine
from vit_jax_tricks.augment.crop import random_pad_crop
from vit_jax_tricks.augment.flip import random_flip
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
from vit_jax_tricks.augment.stack import from_config
from vit_jax_tricks.augment.warp import (
    affine_warp,
    rotate_matrix,
    shear_x_matrix,
    shear_y_matrix,
    translate_matrix,
)


__all__ = [
    "affine_warp",
    "bilinear_sample",
    "blend",
    "cutmix",
    "cutmix_box",
    "cutmix_with",
    "from_config",
    "mix_weights",
    "mixup",
    "mixup_or_cutmix",
    "mixup_with",
    "random_affine",
    "random_flip",
    "random_pad_crop",
    "rotate_matrix",
    "shear_x_matrix",
    "shear_y_matrix",
    "translate_matrix",
]

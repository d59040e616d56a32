"""Image augmentation on the device: batched and pure, with one draw for each image."""

from vit_jax_tricks.augment.affine import (
    bilinear_sample,
    random_affine,
    random_affine_matrix,
)
from vit_jax_tricks.augment.auto_augment import (
    aug_mix,
    auto_augment,
    rand_augment,
    three_augment,
    trivial_augment,
)
from vit_jax_tricks.augment.blur import gaussian_blur
from vit_jax_tricks.augment.color_jitter import color_jitter
from vit_jax_tricks.augment.crop import random_flip, random_flips, random_pad_crop
from vit_jax_tricks.augment.enhance import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    grayscale,
)
from vit_jax_tricks.augment.erase import (
    erase_boxes,
    random_erasing,
    random_erasing_boxes,
)
from vit_jax_tricks.augment.geometry import (
    Geometry,
    apply_to_boxes,
    apply_to_dense,
    identity_geometry,
)
from vit_jax_tricks.augment.hue import adjust_hue
from vit_jax_tricks.augment.mix import (
    blend,
    cutmix,
    cutmix_with,
    mix_weights,
    mix_with,
    mixup,
    mixup_or_cutmix,
    mixup_with,
)
from vit_jax_tricks.augment.mix_draw import MixDraw, cutmix_box, draw_mix
from vit_jax_tricks.augment.multi_scale import training_size
from vit_jax_tricks.augment.operations import (
    OPERATIONS,
    apply_operation,
    apply_operations,
    operation_matrix,
)
from vit_jax_tricks.augment.parse import parse_policy
from vit_jax_tricks.augment.policy import Policy, Step, apply_policy, draw
from vit_jax_tricks.augment.resample import crop_and_resize
from vit_jax_tricks.augment.resized_crop import (
    random_or_center_crop,
    random_resized_box,
    random_resized_crop,
    resize_center_crop,
    simple_random_crop,
)
from vit_jax_tricks.augment.stack import Stack, from_config
from vit_jax_tricks.augment.stages import stages
from vit_jax_tricks.augment.tone import (
    auto_contrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
)
from vit_jax_tricks.augment.warp import (
    affine_warp,
    rotate_matrix,
    shear_x_matrix,
    shear_y_matrix,
    translate_matrix,
)


__all__ = [
    "OPERATIONS",
    "Geometry",
    "MixDraw",
    "Policy",
    "Stack",
    "Step",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "affine_warp",
    "apply_operation",
    "apply_operations",
    "apply_policy",
    "apply_to_boxes",
    "apply_to_dense",
    "aug_mix",
    "auto_augment",
    "auto_contrast",
    "bilinear_sample",
    "blend",
    "color_jitter",
    "crop_and_resize",
    "cutmix",
    "cutmix_box",
    "cutmix_with",
    "draw",
    "draw_mix",
    "equalize",
    "erase_boxes",
    "from_config",
    "gaussian_blur",
    "grayscale",
    "identity_geometry",
    "invert",
    "mix_weights",
    "mix_with",
    "mixup",
    "mixup_or_cutmix",
    "mixup_with",
    "operation_matrix",
    "parse_policy",
    "posterize",
    "rand_augment",
    "random_affine",
    "random_affine_matrix",
    "random_erasing",
    "random_erasing_boxes",
    "random_flip",
    "random_flips",
    "random_or_center_crop",
    "random_pad_crop",
    "random_resized_box",
    "random_resized_crop",
    "resize_center_crop",
    "rotate_matrix",
    "shear_x_matrix",
    "shear_y_matrix",
    "simple_random_crop",
    "solarize",
    "solarize_add",
    "stages",
    "three_augment",
    "training_size",
    "translate_matrix",
    "trivial_augment",
]

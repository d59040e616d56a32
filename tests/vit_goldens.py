"""Which model each reference file of the ViT family belongs to."""

from functools import partial

import jax


# For programs that run once: less time in the compiler is less time in total.
jit_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

PARALLEL = {"parallel": 2}
HMLP = {"stem": "hmlp", "init_values": None}

SMALL = {
    "small_vit": ("vit_tiny_patch16_224", {}),
    "small_vit_gap_fcnorm": ("vit_tiny_patch16_224", {}),
    "small_vit_layerscale": ("vit_tiny_patch16_224", {}),
    "small_vit_nocls": ("vit_tiny_patch16_224", {}),
    "small_vit_noqkvbias": ("vit_tiny_patch16_224", {}),
    "small_vit_qknorm": ("vit_tiny_patch16_224", {}),
    "small_vit_reg4_noembedcls": ("vit_tiny_patch16_224", {}),
    "small_vit_prenorm_quickgelu": ("vit_base_patch32_clip_quickgelu_224", {}),
    "small_deit": ("deit_tiny_patch16_224", {}),
    "small_deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "small_deit3": ("deit3_small_patch16_224", {}),
    "small_official_deit3": ("deit_small_patch16_LS", {}),
    "small_official_deit3_paral2": ("deit_small_patch16_LS", PARALLEL),
    "small_official_deit3_hmlp": ("deit_small_patch16_LS", HMLP),
}
FULL = {
    "timm_vit_tiny_patch16_224": "vit_tiny_patch16_224",
    "timm_vit_small_patch16_224": "vit_small_patch16_224",
    "timm_deit_tiny_patch16_224": "deit_tiny_patch16_224",
    "timm_deit_small_patch16_224": "deit_small_patch16_224",
    "timm_deit_small_distilled_patch16_224": "deit_small_distilled_patch16_224",
    "timm_deit3_small_patch16_224": "deit3_small_patch16_224",
    "official_deit_tiny_patch16_224": "deit_tiny_patch16_224",
    "official_deit_small_patch16_224": "deit_small_patch16_224",
    "official_deit_tiny_distilled_patch16_224": "deit_tiny_distilled_patch16_224",
    "official_deit_small_distilled_patch16_224": "deit_small_distilled_patch16_224",
}
BASE = {
    "timm_vit_base_patch16_224": "vit_base_patch16_224",
    "timm_vit_base_patch16_clip_224": "vit_base_patch16_clip_224",
    "official_deit_base_patch16_LS": "deit_base_patch16_LS",
}

"""Reference files of ViT, DeiT and DeiT-III."""

from model_goldens import Case


TINY, LS = "vit_tiny_patch16_224", "deit_small_patch16_LS"
QUICKGELU = "vit_base_patch32_clip_quickgelu_224"

SMALL = [
    Case("models_small/small_vit", TINY),
    Case("models_small/small_vit_gap_fcnorm", TINY),
    Case("models_small/small_vit_layerscale", TINY),
    Case("models_small/small_vit_nocls", TINY),
    Case("models_small/small_vit_noqkvbias", TINY),
    Case("models_small/small_vit_qknorm", TINY),
    Case("models_small/small_vit_reg4_noembedcls", TINY),
    Case("models_small/small_vit_prenorm_quickgelu", QUICKGELU),
    Case("models_small/small_deit", "deit_tiny_patch16_224"),
    Case("models_small/small_deit_distilled", "deit_tiny_distilled_patch16_224"),
    Case("models_small/small_deit3", "deit3_small_patch16_224"),
    Case("models_small/small_official_deit3", LS),
    Case("models_small/small_official_deit3_paral2", LS, {"parallel": 2}),
    Case(
        "models_small/small_official_deit3_hmlp",
        LS,
        {"stem": "hmlp", "init_values": None},
    ),
]
FULL = [
    Case(f"models_full/{program}_{name}", name)
    for program, names in {
        "timm": [
            "vit_tiny_patch16_224",
            "vit_small_patch16_224",
            "vit_base_patch16_224",
            "vit_base_patch16_clip_224",
            "deit_tiny_patch16_224",
            "deit_small_patch16_224",
            "deit_small_distilled_patch16_224",
            "deit3_small_patch16_224",
        ],
        "official": [
            "deit_tiny_patch16_224",
            "deit_small_patch16_224",
            "deit_tiny_distilled_patch16_224",
            "deit_small_distilled_patch16_224",
            "deit_base_patch16_LS",
        ],
    }.items()
    for name in names
]

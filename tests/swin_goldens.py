"""Reference files of Swin and Swin V2."""

from model_goldens import Case


TINY, TINY_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
TIMM = {"layers.0.downsample": "patch_embed"}  # the identity in timm's first stage
OFFICIAL = {f"layers.{i}.downsample": f"layers_{i + 1}/downsample" for i in range(3)}

SMALL = [
    Case("models_small/small_swin", TINY, modules=TIMM),
    Case(
        "models_small/small_official_swin", TINY, modules=OFFICIAL, dialect="official"
    ),
    Case("models_small/small_swinv2", TINY_V2, modules=TIMM),
]
FULL = [
    *(
        Case(f"models_full/timm_{name}", name)
        for name in (
            TINY,
            "swin_base_patch4_window7_224",
            "swin_base_patch4_window12_384",
            TINY_V2,
        )
    ),
    *(
        Case(f"models_full/official_{name}", name, dialect="official")
        for name in (
            TINY,
            "swin_small_patch4_window7_224",
            "swin_base_patch4_window7_224",
        )
    ),
]

"""Reference files of ConViT."""

from model_goldens import Case


# The official class takes the whole width, its registered names and timm one head's.
SMALL = [
    Case("models_small/small_convit", "convit_tiny", {"embed_dim": 8}),
    Case("models_small/small_timm_convit", "convit_tiny"),
]
FULL = [
    Case("models_full/official_convit_tiny", "convit_tiny"),
    Case("models_full/official_convit_small", "convit_small"),
    Case("models_full/timm_convit_small", "convit_small"),
    Case("models_full/timm_convit_base", "convit_base"),
]

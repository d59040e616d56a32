"""Reference files of ViT's relatives: relative biases, MAP head, EVA-02."""

from model_goldens import Case


RELPOS, SIGLIP = "vit_relpos_small_patch16_224", "vit_base_patch16_siglip_224"
EVA = "eva02_tiny_patch14_224"

SMALL = [
    Case("models_small/small_vit_relpos_bias", RELPOS),
    Case("models_small/small_vit_relpos_mlp", RELPOS),
    Case("models_small/small_vit_map_head", SIGLIP),
    Case("models_small/small_eva_rope", EVA),
]
FULL = [
    Case(f"models_full/timm_{RELPOS}", RELPOS),
    Case(f"models_full/timm_{SIGLIP}", SIGLIP, {"num_classes": 0}),
    Case(f"models_full/timm_{EVA}", EVA),
]

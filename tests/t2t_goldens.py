"""Reference files of T2T-ViT."""

from model_goldens import Case


SMALL = [
    Case("models_small/small_t2t_performer", "t2t_vit_14"),
    Case("models_small/small_t2t_transformer", "t2t_vit_t_14"),
]
FULL = [
    *(
        Case(f"models_full/official_t2t_vit_{name}", f"t2t_vit_{name}")
        for name in ("7", "10", "12", "14", "24", "t_14", "t_19")
    ),
    Case("models_full/official_t2t_vit_14_qkscale", "t2t_vit_14"),
]

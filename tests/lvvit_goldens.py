"""Reference files of LV-ViT."""

from model_goldens import Case


SMALL = [Case("models_small/small_lvvit", "lvvit_s")]
FULL = [
    Case("models_full/official_lvvit_t", "lvvit_t"),
    Case("models_full/official_lvvit_s", "lvvit_s"),
]

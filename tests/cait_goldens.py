"""Reference files of CaiT."""

from model_goldens import Case


SMALL = [Case("models_small/small_cait", "cait_xxs24_224")]
FULL = [Case("models_full/timm_cait_xxs24_224", "cait_xxs24_224")]

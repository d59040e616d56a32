"""Model names of the LV-ViT family, with sizes, evaluation crops and counts."""

from typing import Any

from vit_jax_tricks.models.lv_vit import LVViT
from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register


DENSE = {"return_dense": True, "mix_token": True}
# Width, depth, heads, skip_lam; crop, parameters and official top-1 at 224 pixels.
VARIANTS: dict[str, tuple[tuple[int, int, int, float], float, int, float | None]] = {
    "lvvit": ((384, 16, 6, 2.0), 0.9, 25_766_824, None),
    "lvvit_t": ((240, 12, 4, 1.0), 0.9, 8_534_720, 79.1),
    "lvvit_s": ((384, 16, 6, 2.0), 0.9, 26_151_824, 83.3),
    "lvvit_m": ((512, 20, 8, 2.0), 1.0, 55_830_544, 84.0),
    "lvvit_l": ((768, 24, 12, 3.0), 1.0, 150_021_968, None),
}
# Models with a reference file of their own size.
_FULL = {"lvvit_t", "lvvit_s"}


def _register() -> None:
    for name, ((width, depth, heads, lam), crop, count, top1) in VARIANTS.items():
        fields: dict[str, Any] = {
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": 3.0,
            "p_emb": "4_2_128" if name == "lvvit_l" else "4_2",
            "skip_lam": lam,
        }
        full = f"models_full/official_{name}"
        entry = Entry(
            family=LVViT,
            defaults=fields if name == "lvvit" else fields | DENSE,
            preprocessing=Preprocessing(*IMAGENET, crop_pct=crop),
            parameters=count,
            parameters_classes=1000,
            source="zihangJiang/TokenLabeling 9dbfd59",
            dialect="tlt",
            golden=full if name in _FULL else "models_small/small_lvvit",
            top1=top1,
        )
        register(name, entry)


_register()

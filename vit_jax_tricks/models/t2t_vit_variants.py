"""Model names of the T2T-ViT family, with sizes and published counts."""

from typing import Any

from vit_jax_tricks.models.registry import IMAGENET, Entry, Preprocessing, register
from vit_jax_tricks.models.t2t_vit import T2TViT


# Sizes: width, heads, depth, MLP ratio. Counts: trainable parameters of the official
# code, without the fixed random features and sinusoids. Top-1: its README.
VARIANTS: dict[str, tuple[tuple[int, int, int, float], int, float | None]] = {
    "t2t_vit_7": ((256, 4, 7, 2.0), 4_255_694, 71.7),
    "t2t_vit_10": ((256, 4, 10, 2.0), 5_834_702, 75.2),
    "t2t_vit_12": ((256, 4, 12, 2.0), 6_887_374, 76.5),
    "t2t_vit_14": ((384, 6, 14, 3.0), 21_465_806, 81.5),
    "t2t_vit_19": ((448, 7, 19, 3.0), 39_085_070, 81.9),
    "t2t_vit_24": ((512, 8, 24, 3.0), 64_000_974, 82.3),
    "t2t_vit_t_14": ((384, 6, 14, 3.0), 21_465_422, 81.7),
    "t2t_vit_t_19": ((448, 7, 19, 3.0), 39_084_686, 82.4),
    "t2t_vit_t_24": ((512, 8, 24, 3.0), 64_000_590, 82.6),
    "t2t_vit_14_resnext": ((384, 32, 14, 3.0), 21_465_806, None),
    "t2t_vit_14_wide": ((768, 12, 4, 3.0), 25_000_910, None),
}
# Models with a reference file of their own size.
_FULL = {"7", "10", "12", "14", "24", "t_14", "t_19"}


def _register() -> None:
    for name, ((width, heads, depth, ratio), count, top1) in VARIANTS.items():
        tokens = "transformer" if name.startswith("t2t_vit_t_") else "performer"
        fields: dict[str, Any] = {
            "tokens_type": tokens,
            "embed_dim": width,
            "num_heads": heads,
            "depth": depth,
            "mlp_ratio": ratio,
        }
        full = name.removeprefix("t2t_vit_") in _FULL
        entry = Entry(
            family=T2TViT,
            defaults=fields,
            preprocessing=Preprocessing(*IMAGENET, crop_pct=0.9),
            parameters=count,
            parameters_classes=1000,
            source="yitu-opensource/T2T-ViT 0f63dc9",
            dialect="t2t",
            golden=f"models_full/official_{name}"
            if full
            else f"models_small/small_t2t_{tokens}",
            top1=top1,
        )
        register(name, entry)


_register()

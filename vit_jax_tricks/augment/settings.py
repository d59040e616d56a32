"""Keys of `config.augment`, with the checks of their values."""

import dataclasses
from typing import Any

from vit_jax_tricks.augment import erase, mix_draw, parse, policy
from vit_jax_tricks.errors import UserError, nearest


CROPS = ("none", "random_resized", "random_or_center", "simple")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One value for each key; configs/common.py documents them."""

    crop: str
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip: bool
    auto_augment: str
    color_jitter: float
    hue: float
    jitter_prob: float
    interpolation: str
    pad: int
    degrees: float
    translate: float
    scale: tuple[float, float]
    shear: float
    erasing: float
    erasing_mode: str
    erasing_count: int
    mixup: float
    cutmix: float
    mix_prob: float
    switch_prob: float
    mix_mode: str
    mix_first: bool
    multi_scale: tuple[int, ...] = ()
    multi_scale_every: int = 1

    @property
    def jitters(self) -> bool:
        """Whether colour jitter is on."""
        return bool(self.color_jitter or self.hue)

    @property
    def on_levels(self) -> bool:
        """Whether any stage works on integer grey levels."""
        return self.jitters or self.auto_augment != "none"

    @property
    def warps(self) -> dict[str, Any]:
        """Arguments of `random_affine`; empty if the warp would change nothing."""
        moves = self.degrees or self.translate or self.shear
        if not moves and tuple(self.scale) == (1.0, 1.0):
            return {}
        keys = ("degrees", "translate", "scale", "shear")
        return {key: getattr(self, key) for key in keys}

    def check(self) -> None:
        """Raises UserError for a value out of range or an unknown name."""
        ranges = {
            "crop_scale": _range(self.crop_scale) and self.crop_scale[1] <= 1,
            "crop_ratio": _range(self.crop_ratio),
            "color_jitter": self.color_jitter >= 0,
            "hue": 0 <= self.hue <= 0.5,
            "jitter_prob": 0 <= self.jitter_prob <= 1,
            "pad": self.pad >= 0,
            "degrees": 0 <= self.degrees <= 180,
            "translate": 0 <= self.translate <= 1,
            "scale": _range(self.scale),
            "shear": 0 <= self.shear < 90,
            "erasing": 0 <= self.erasing <= 1,
            "erasing_count": self.erasing_count >= 1,
            "mixup": self.mixup >= 0,
            "cutmix": self.cutmix >= 0,
            "mix_prob": 0 <= self.mix_prob <= 1,
            "switch_prob": 0 <= self.switch_prob <= 1,
            "multi_scale": all(size >= 1 for size in self.multi_scale)
            and len(set(self.multi_scale)) == len(self.multi_scale),
            "multi_scale_every": self.multi_scale_every >= 1,
        }
        for name, fits in ranges.items():
            if not fits:
                value = getattr(self, name)
                raise UserError(f"config.augment.{name}={value}: out of range.")
        choices = {
            "crop": CROPS,
            "interpolation": policy.INTERPOLATIONS,
            "erasing_mode": erase.MODES,
            "mix_mode": mix_draw.MODES,
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                hint = nearest(value, known)
                raise UserError(f'config.augment.{name}="{value}": unknown.{hint}')
        if self.auto_augment.startswith("augmix"):
            parse.parse_aug_mix(self.auto_augment)
        elif self.auto_augment != "none":
            parse.parse_policy(self.auto_augment)


def _range(pair: tuple[float, float]) -> bool:
    return len(pair) == 2 and 0 < pair[0] <= pair[1]

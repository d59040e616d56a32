"""From a policy's level to an operation's amount: the families, which do not agree.

`TIMM` (whose plain names are those of TensorFlow's EfficientNet) and `ORIGINAL` (the
code release of AutoAugment) take levels 0..10, `torchvision` a number of evenly spaced
bins. Source: the tables of timm, tensorflow/models and torchvision.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from vit_jax_tricks.typing import Array, Float


class Draw(NamedTuple):
    """What an amount is made of, for each image: a level, a sign, a number in 0..1.

    `size` is that of the images (h, w).
    """

    level: Float[Array, "b"]
    sign: Float[Array, "b"]
    uniform: Float[Array, "b"]
    size: tuple[int, int]


Amount = Callable[[Draw], Float[Array, "b"]]
Family = Mapping[str, tuple[str, Amount]]  # name in policies -> operation, amount


def _none(draw: Draw) -> Array:
    return jnp.zeros_like(draw.level)


def _enhance(draw: Draw) -> Array:
    return draw.level / 10 * 1.8 + 0.1


def _increasing(draw: Draw) -> Array:
    return jnp.maximum(0.1, 1 + draw.sign * (draw.level / 10 * 0.9))


def _solarize(draw: Draw) -> Array:
    return jnp.minimum(256, jnp.floor(draw.level / 10 * 256))


def _bits(draw: Draw) -> Array:
    return jnp.floor(draw.level / 10 * 4)


def timm(*, translate_share: float = 0.45) -> Family:
    """timm's operations; shifts are up to this share of the side, at level 10.

    Posterize down to 0 bits, which some levels ask for, is black (and an error in timm
    with Pillow 13). The absolute TranslateX and TranslateY go by the shorter side,
    rounded down, as timm's transforms for training do.
    """

    def shear(draw: Draw) -> Array:
        return draw.sign * (draw.level / 10 * 0.3)

    def shift(axis: int) -> Amount:
        return lambda d: d.sign * (d.level / 10 * translate_share) * d.size[axis]

    def absolute(draw: Draw) -> Array:
        most = int(min(draw.size) * translate_share)
        return draw.sign * (draw.level / 10 * most)

    def saturation_left(draw: Draw) -> Array:
        return 1 - jnp.clip(0.5 + 0.5 * (draw.level / 10), 0.5, 1)

    def blur(draw: Draw) -> Array:
        return jnp.clip(0.1 + 1.9 * (draw.level / 10), 0.1, 2)

    def any_blur(draw: Draw) -> Array:
        most = 2 * jnp.clip(draw.level / 10, 0, 1)
        return 0.1 + (most - 0.1) * draw.uniform

    family: dict[str, tuple[str, Amount]] = {
        "AutoContrast": ("auto_contrast", _none),
        "Equalize": ("equalize", _none),
        "Invert": ("invert", _none),
        "Rotate": ("rotate", lambda d: d.sign * (d.level / 10 * 30)),
        "Posterize": ("posterize", _bits),
        "PosterizeIncreasing": ("posterize", lambda d: 4 - _bits(d)),
        "PosterizeOriginal": ("posterize", lambda d: 4 + _bits(d)),
        "Solarize": ("solarize", _solarize),
        "SolarizeIncreasing": ("solarize", lambda d: 256 - _solarize(d)),
        "SolarizeAdd": (
            "solarize_add",
            lambda d: jnp.minimum(128, jnp.floor(d.level / 10 * 110)),
        ),
        "ShearX": ("shear_x", shear),
        "ShearY": ("shear_y", shear),
        "TranslateX": ("translate_x", absolute),
        "TranslateY": ("translate_y", absolute),
        "TranslateXRel": ("translate_x", shift(1)),
        "TranslateYRel": ("translate_y", shift(0)),
        "Desaturate": ("saturation", saturation_left),
        "GaussianBlur": ("gaussian_blur", blur),
        "GaussianBlurRand": ("gaussian_blur", any_blur),
    }
    for name, op in (
        ("Color", "saturation"),
        ("Contrast", "contrast"),
        ("Brightness", "brightness"),
        ("Sharpness", "sharpness"),
    ):
        family[name] = (op, _enhance)
        family[f"{name}Increasing"] = (op, _increasing)
    return family


def torchvision(
    *,
    bins: int,
    shear: float = 0.3,
    shift: float = 150 / 331,
    pixels: float | None = None,
    degrees: float = 30.0,
    enhance: float = 0.9,
    bits: tuple[int, int] = (8, 4),
) -> Family:
    """torchvision's operations; a level is a bin, from none at 0 to most at bins - 1.

    Shifts are whole pixels (to the right and down where others count left and up), at
    most a share `shift` of the side, or `pixels`. `bits` are kept at the two ends.
    """
    last = bins - 1

    def signed(most: float) -> Amount:
        return lambda d: d.sign * (d.level / last * most)

    def move(axis: int) -> Amount:
        def amount(draw: Draw) -> Array:
            most = shift * draw.size[axis] if pixels is None else pixels
            return -draw.sign * jnp.floor(draw.level / last * most)

        return amount

    def factor(draw: Draw) -> Array:
        return 1 + draw.sign * (draw.level / last * enhance)

    def keep(draw: Draw) -> Array:
        return bits[0] - jnp.round(draw.level / (last / (bits[0] - bits[1])))

    return {
        "Identity": ("identity", _none),
        "ShearX": ("shear_x", signed(shear)),
        "ShearY": ("shear_y", signed(shear)),
        "TranslateX": ("translate_x", move(1)),
        "TranslateY": ("translate_y", move(0)),
        "Rotate": ("rotate", signed(degrees)),
        "Brightness": ("brightness", factor),
        "Color": ("saturation", factor),
        "Contrast": ("contrast", factor),
        "Sharpness": ("sharpness", factor),
        "Posterize": ("posterize", keep),
        "Solarize": ("solarize", lambda d: 255 - 255 * (d.level / last)),
        "AutoContrast": ("auto_contrast", _none),
        "Equalize": ("equalize", _none),
        "Invert": ("invert", _none),
    }

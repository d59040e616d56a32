"""From a policy's level to an operation's amount: the families, which do not agree.

`timm` takes levels from 0 to 10, `torchvision` numbers of evenly spaced bins. An
operation of a family has a function of a `Draw`; it uses only what NumPy numbers and
JAX arrays have in common, so that fixed levels are converted in float64. Sources: the
tables of timm (whose plain names are those of TensorFlow's EfficientNet code) and of
torchvision.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vit_jax_tricks.typing import Array, Float


class Draw(NamedTuple):
    """What an amount is made of.

    Attributes:
      level: of the policy: a NumPy number, or one for each draw [n].
      sign: -1 or 1.
      uniform: a number in 0..1 for each draw.
      size: of the images (h, w).
    """

    level: Any
    sign: float
    uniform: Float[Array, "n"]
    size: tuple[int, int]


Amount = Callable[[Draw], Any]
Family = Mapping[str, tuple[str, Amount]]  # name in policies -> operation, amount


def _none(draw: Draw) -> Any:
    return draw.level * 0


def _enhance(draw: Draw) -> Any:
    return draw.level / 10 * 1.8 + 0.1


def _increasing(draw: Draw) -> Any:
    return (1 + draw.sign * (draw.level / 10 * 0.9)).clip(min=0.1)


def _solarize(draw: Draw) -> Any:
    return (draw.level / 10 * 256 // 1).clip(max=256)


def _solarize_add(draw: Draw) -> Any:
    return (draw.level / 10 * 110 // 1).clip(max=128)


def _bits(draw: Draw) -> Any:
    return draw.level / 10 * 4 // 1


def _desaturate(draw: Draw) -> Any:
    return 1 - (0.5 + 0.5 * (draw.level / 10)).clip(0.5, 1)


def _blur(draw: Draw) -> Any:
    return (0.1 + 1.9 * (draw.level / 10)).clip(0.1, 2)


def _any_blur(draw: Draw) -> Any:
    most = 2 * (draw.level / 10).clip(0, 1)
    return 0.1 + (most - 0.1) * draw.uniform


def timm(*, translate_share: float = 0.45) -> Family:
    """timm's operations; shifts are up to this share of the side, at level 10.

    Posterize down to 0 bits, which some levels ask for, is black (and an error in timm
    with Pillow 13). The absolute TranslateX and TranslateY go by the shorter side,
    rounded down, as in timm's transforms for training.
    """

    def signed(most: float) -> Amount:
        return lambda d: d.sign * (d.level / 10 * most)

    def shift(axis: int) -> Amount:
        return lambda d: d.sign * (d.level / 10 * translate_share) * d.size[axis]

    def absolute(draw: Draw) -> Any:
        most = int(min(draw.size) * translate_share)
        return draw.sign * (draw.level / 10 * most)

    family: dict[str, tuple[str, Amount]] = {
        "AutoContrast": ("auto_contrast", _none),
        "Equalize": ("equalize", _none),
        "Invert": ("invert", _none),
        "Rotate": ("rotate", signed(30.0)),
        "Posterize": ("posterize", _bits),
        "PosterizeIncreasing": ("posterize", lambda d: 4 - _bits(d)),
        "PosterizeOriginal": ("posterize", lambda d: 4 + _bits(d)),
        "Solarize": ("solarize", _solarize),
        "SolarizeIncreasing": ("solarize", lambda d: 256 - _solarize(d)),
        "SolarizeAdd": ("solarize_add", _solarize_add),
        "ShearX": ("shear_x", signed(0.3)),
        "ShearY": ("shear_y", signed(0.3)),
        "TranslateX": ("translate_x", absolute),
        "TranslateY": ("translate_y", absolute),
        "TranslateXRel": ("translate_x", shift(1)),
        "TranslateYRel": ("translate_y", shift(0)),
        "Desaturate": ("saturation", _desaturate),
        "GaussianBlur": ("gaussian_blur", _blur),
        "GaussianBlurRand": ("gaussian_blur", _any_blur),
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
        def amount(draw: Draw) -> Any:
            most = shift * draw.size[axis] if pixels is None else pixels
            return -draw.sign * (draw.level / last * most // 1)

        return amount

    def factor(draw: Draw) -> Any:
        return 1 + draw.sign * (draw.level / last * enhance)

    def keep(draw: Draw) -> Any:
        return bits[0] - (draw.level / (last / (bits[0] - bits[1]))).round()

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

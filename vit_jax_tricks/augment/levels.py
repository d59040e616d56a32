"""Converts a policy's level to an operation's amount, on timm's or torchvision's scale.

`timm` takes levels from 0 to 10, `torchvision` the index of an evenly spaced bin. In a
family, each operation has a function of a `Draw`. It uses only methods that NumPy
numbers and JAX arrays share, so that fixed levels are converted in float64. Sources:
the tables of timm (whose plain names are those of TensorFlow's EfficientNet code) and
of torchvision.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vit_jax_tricks.typing import Array, Float


class Draw(NamedTuple):
    """The inputs from which an amount is computed.

    Attributes:
      level: the policy's level: a NumPy number, or one for each draw [n].
      sign: -1 or 1.
      uniform: a number in 0..1 for each draw.
      size: (h, w) of the images.
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
    """timm's operations; at level 10, shifts reach this share of the side.

    Posterize to 0 bits, which some levels ask for, gives black (it is an error in timm
    with Pillow 13). The absolute TranslateX and TranslateY use the shorter side,
    rounded down, as in timm's training transforms.
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
    """torchvision's operations; levels are bins, no effect at 0, most at bins - 1.

    Shifts are whole pixels, at most a share `shift` of the side or `pixels`, and have
    the opposite sign to timm's: right and down where timm counts left and up. `bits`
    are the bits kept at the first and the last bin.
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

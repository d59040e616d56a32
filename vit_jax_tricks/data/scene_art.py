"""Draws the scenes of `digit_scenes`: one whole digit among fragments on a photo.

All lengths are fractions of the image's side, so that 32, 64 and 224 pixels show the
same scenes at different resolutions. The 8x8 digits become strokes by smooth upsampling
and a soft threshold.
"""

import colorsys
import dataclasses
import functools

import cv2
import numpy as np

from vit_jax_tricks.data import digits
from vit_jax_tricks.typing import Float, UInt8


Range = tuple[float, float]
FIELD = 48  # pixels of an upsampled digit field: 12 cells (8 plus a rim of 2) of 4
CELL = 4
HUES = (  # upper end in degrees on the colour wheel, name
    (18, "red"),
    (42, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (361, "red"),
)


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Parameters that make a scene hard to read; see the comments for units."""

    scale: Range = (0.6, 0.95)  # height of the digit / side
    rotation: float = 15.0  # degrees to either side; 6/9 and 1/7 stay distinct
    contrast: Range = (80.0, 170.0)  # |luminance of the digit - of its background|
    fragments: tuple[int, int] = (2, 5)  # number of them, both ends included
    fragment_scale: Range = (0.25, 0.5)  # reach of a fragment / height of the digit
    shared_colour: float = 0.3  # fraction of fragments with the digit's colour
    background: Range = (0.3, 0.7)  # contrast of the photograph, 1 = as taken
    crop: Range = (0.25, 0.9)  # side of the crop / short side of the photo's region
    noise: Range = (0.0, 8.0)  # standard deviation of the grain, in levels of 255


@functools.cache
def fields() -> Float[np.ndarray, "1797 48 48"]:
    """Ink of the digits, 1 inside a stroke: cubically upsampled, then sharpened.

    The originals are counts over 4x4 blocks. Sharpening undoes part of that blur, so
    that the loops of 4, 6, 8 and 9 stay open.
    """
    images, _ = digits.glyphs()
    padded = np.pad(images.astype(np.float32) / 255, ((0, 0), (2, 2), (2, 2)))
    ink = [cv2.resize(f, (FIELD, FIELD), interpolation=cv2.INTER_CUBIC) for f in padded]
    return np.stack([f + 0.8 * (f - cv2.GaussianBlur(f, (0, 0), CELL)) for f in ink])


@functools.cache
def photographs(split: str) -> tuple[tuple[str, UInt8[np.ndarray, "h w 3"]], ...]:
    """The parts of the two photographs that belong to `split`: left train, right test.

    A strip of 16 columns between the parts belongs to neither.
    """
    from sklearn.datasets import load_sample_image

    parts = slice(0, 384) if split == "train" else slice(400, 640)
    return tuple(
        (name, np.ascontiguousarray(load_sample_image(f"{file}.jpg")[:, parts]))
        for name, file in (
            ("a photograph of a temple", "china"),
            ("a photograph of a flower", "flower"),
        )
    )


def luminance(colour: Float[np.ndarray, "3"]) -> float:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    return float(np.dot(colour, [0.299, 0.587, 0.114]))


def brightness(part: Float[np.ndarray, "h w 3"]) -> float:
    """Mean luminance."""
    return float(luminance(np.array(cv2.mean(part)[:3])))


@functools.cache
def noise_bank() -> Float[np.ndarray, "m"]:
    """A million normal numbers, whose slices serve as noise; drawing is slow."""
    return np.random.default_rng(0).standard_normal(2**20, np.float32)


def grain(rng: np.random.Generator, size: int) -> Float[np.ndarray, "s s 3"]:
    """Unit noise for one picture."""
    count = 3 * size**2
    start = int(rng.integers(len(noise_bank()) - count))
    return noise_bank()[start : start + count].reshape(size, size, 3)


def background(
    rng: np.random.Generator, size: int, split: str, difficulty: Difficulty
) -> tuple[str, Float[np.ndarray, "s s 3"]]:
    """A random square from the split's photographs, and a name of what it shows."""
    name, photo = photographs(split)[rng.integers(2)]
    height, width = photo.shape[:2]
    side = int(rng.uniform(*difficulty.crop) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    canvas = cv2.resize(crop, (size, size), interpolation=how).astype(np.float32)
    shift, contrast = rng.uniform(-30, 30), rng.uniform(*difficulty.background)
    mean = np.array(cv2.mean(canvas)[:3], np.float32)
    canvas *= np.float32(contrast)
    canvas += mean * np.float32(1 - contrast) + np.float32(shift)
    return name, canvas


def ink_colour(
    rng: np.random.Generator, behind: float, difficulty: Difficulty
) -> Float[np.ndarray, "3"]:
    """A random colour whose luminance differs from `behind` by a drawn contrast."""
    contrast = rng.uniform(*difficulty.contrast)
    room = behind - contrast >= 15, behind + contrast <= 240
    darker = room[0] if room[0] != room[1] else rng.random() < behind / 255
    target = behind - contrast if darker else behind + contrast
    hue = rng.uniform(-1, 1, 3).astype(np.float32)
    hue -= luminance(hue)
    spread = rng.uniform(0, 110) / np.abs(hue).max()
    return np.clip(target + spread * hue, 0, 255).astype(np.float32)


def stamp(
    field: Float[np.ndarray, "f f"],
    size: int,
    centre: tuple[float, float],
    scale: float,
    angle: float,
    stretch: float = 1.0,
) -> tuple[tuple[slice, slice], Float[np.ndarray, "p q"]]:
    """Region of the canvas where the field lands, and its opacity there, 0..1.

    `centre` is (x, y) and `scale` the height of the eight cells, both in pixels;
    `angle` is in degrees; `stretch` widens the digit.
    """
    zoom = scale / (8 * CELL)
    reach = 0.75 * scale * max(1.0, stretch) + 2
    x0, y0 = (max(int(c - reach), 0) for c in centre)
    x1, y1 = (min(int(c + reach) + 1, size) for c in centre)
    cos, sin = np.cos(np.radians(angle)) * zoom, np.sin(np.radians(angle)) * zoom
    linear = np.array([[cos * stretch, -sin], [sin * stretch, cos]])
    middle = linear @ np.full(2, FIELD / 2 - 0.5)
    offset = np.array([centre[0] - x0, centre[1] - y0]) - middle
    patch = cv2.warpAffine(
        field,
        np.column_stack([linear, offset]),
        (max(x1 - x0, 1), max(y1 - y0, 1)),
        flags=cv2.INTER_LINEAR,
    )
    sharpness = np.clip(scale / 14, 1.6, 8)  # an edge about one and a half pixels wide
    alpha = np.clip(0.5 + (patch - 0.45) * sharpness, 0, 1)
    return (slice(y0, y0 + alpha.shape[0]), slice(x0, x0 + alpha.shape[1])), alpha


def piece(rng: np.random.Generator, split: str) -> Float[np.ndarray, "f f"]:
    """Ink that is not a digit: a quarter to a half of one, a stroke, arc or blob."""
    kind = rng.random()
    if kind < 0.6:
        members = digits.split()[split]
        field = fields()[members[rng.integers(len(members))]]
        angle = rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:FIELD, :FIELD] - FIELD / 2
        along = (columns * np.cos(angle) + rows * np.sin(angle) + FIELD).astype(int)
        ink = np.cumsum(np.bincount(along.ravel(), field.clip(0).ravel()))
        cut = np.searchsorted(ink, rng.uniform(0.25, 0.5) * ink[-1])
        return np.where(along < cut, field, np.float32(0))
    field = np.zeros((FIELD, FIELD), np.float32)
    middle = (FIELD // 2, FIELD // 2)
    if kind < 0.9:
        axes = int(rng.integers(6, 16)), int(rng.integers(2, 16))
        start = int(rng.integers(360))
        end = start + int(rng.integers(60, 170))
        cv2.ellipse(field, middle, axes, 0, start, end, 1.0, int(rng.integers(4, 7)))
    else:
        axes = int(rng.integers(4, 9)), int(rng.integers(4, 9))
        cv2.ellipse(field, middle, axes, 0, 0, 360, 1.0, -1)
    return cv2.GaussianBlur(field, (5, 5), 1.2)


def paint(
    canvas: Float[np.ndarray, "s s 3"],
    place: tuple[slice, slice],
    alpha: Float[np.ndarray, "p q"],
    colour: Float[np.ndarray, "3"],
) -> None:
    """Blends ink into the canvas, in place: canvas + alpha * (colour - canvas)."""
    part = canvas[place]
    part += alpha[..., None] * (colour - part)


def scatter(
    rng: np.random.Generator,
    canvas: Float[np.ndarray, "s s 3"],
    split: str,
    difficulty: Difficulty,
    centre: Float[np.ndarray, "2"],
    scale: float,
    colour: Float[np.ndarray, "3"],
) -> None:
    """Draws the fragments, in place, around the digit rather than under it."""
    size = len(canvas)
    low, high = difficulty.fragments
    for _ in range(rng.integers(low, high + 1)):
        reach = scale * rng.uniform(*difficulty.fragment_scale)
        spots = rng.uniform(0, 1, (8, 2))
        away = np.hypot(*(spots - centre).T) - 0.5 * (scale + 0.8 * reach)
        spot = spots[np.argmax(away > 0) if (away > 0).any() else np.argmax(away)]
        place, alpha = stamp(
            piece(rng, split),
            size,
            tuple(spot * size),
            reach * size,
            rng.uniform(0, 360),
        )
        other = ink_colour(rng, brightness(canvas[place]), difficulty)
        shared = rng.random() < difficulty.shared_colour
        paint(canvas, place, alpha, colour if shared else other)


def colour_name(colour: Float[np.ndarray, "3"]) -> str:
    """Everyday name of an RGB colour in 0..255."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255).tolist())
    if value < 0.2:
        return "black"
    if saturation < 0.2:
        return "white" if value > 0.8 else "grey"
    name = next(name for end, name in HUES if hue * 360 < end)
    return "brown" if name in ("orange", "red") and value < 0.5 else name


def caption(
    label: int,
    colour: Float[np.ndarray, "3"],
    centre: Float[np.ndarray, "2"],
    scale: float,
    where: str,
) -> str:
    """Such as "a small red seven at the top left of a photograph of a temple"."""
    size = "small" if scale < 0.45 else "large" if scale > 0.6 else "middle-sized"
    row = ("top", "", "bottom")[int(centre[1] > 0.4) + int(centre[1] > 0.6)]
    column = ("left", "", "right")[int(centre[0] > 0.4) + int(centre[0] > 0.6)]
    spot = f"{row} {column}".strip() or "centre"
    digit = digits.WORDS[label]
    return f"a {size} {colour_name(colour)} {digit} at the {spot} of {where}"

"""Decodes picture files to uint8 pixels of a fixed size, on the host.

Sizes are (height, width) and boxes (top, left, height, width) in pixels.
"""

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from vit_jax_tricks.data import picture_file, strip
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import UInt8


Box = tuple[int, int, int, int]
RESIZES = ("area", "pil_bicubic")


def decode(data: bytes, channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a picture file to RGB, or to grey for `channels=1`.

    Alpha is dropped; palettes, CMYK, grey and colour are converted to RGB or grey as by
    Pillow's `convert`, whatever the format. `picture_file` documents the formats, and
    how deeper samples, EXIF rotation and very large pictures are read.

    Raises:
      UserError: the bytes are not a complete picture, or one whose values are
        ambiguous.
    """
    with _explained():
        image = picture_file.opened(data)
        pixels = _jpeg(image, data, channels)
        return picture_file.read(image, data, channels) if pixels is None else pixels


def check(data: bytes) -> None:
    """Raises UserError unless `data` decodes strictly to its last row.

    A JPEG is read in full but reconstructed at an eighth of its size, which is faster.
    """
    with _explained():
        image = picture_file.opened(data)
        if image.format in picture_file.JPEGS:
            with contextlib.suppress(ValueError):  # then Pillow decides
                simplejpeg.decode_jpeg(data, "GRAY", min_factor=8)
                return
        picture_file.read(image, data, 3)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns the many errors of decoders on damaged bytes into a one-line UserError."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(picture_file.FORMATS)
        raise UserError(f"not a picture: none of {kinds}") from error
    except Image.DecompressionBombError as error:
        given, most = str(error).partition(" exceeds")[0], Image.MAX_IMAGE_PIXELS or 0
        raise UserError(
            f"too large ({given}): at most {2 * most} pixels are read; make it smaller"
        ) from error
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"damaged: {why}") from error


def _jpeg(
    image: ImageFile.ImageFile, data: bytes, channels: int
) -> UInt8[np.ndarray, "h w c"] | None:
    """Decodes most JPEGs as Pillow does, but faster; None for the others."""
    if image.format not in picture_file.JPEGS or image.mode not in ("L", "RGB"):
        return None
    space = "GRAY" if image.mode == "L" else "RGB"
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != image.size[::-1]:
            return None  # to be read at a smaller size
        pixels = simplejpeg.decode_jpeg(data, space)
    except ValueError:  # it also rejects flaws that Pillow tolerates
        return None
    colours = picture_file.converted(
        pixels.squeeze(-1) if space == "GRAY" else pixels, channels
    )
    return picture_file.upright(colours, picture_file.orientation(image))


def resize(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int], how: str = "area"
) -> UInt8[np.ndarray, "p q c"]:
    """Resamples to `size` with antialiasing.

    `area` (OpenCV) averages along an axis that shrinks and interpolates cubically along
    one that grows; `pil_bicubic` is Pillow's BICUBIC, bit for bit, and slower.
    """
    if image.shape[:2] == size:
        return image
    if how == "pil_bicubic":
        whole = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        small = whole.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return np.asarray(small).reshape(*size, -1)
    if how != "area":
        raise UserError(f'resize="{how}" is unknown.{nearest(how, RESIZES)}')
    shrunk = min(image.shape[0], size[0]), min(image.shape[1], size[1])
    for target, flag in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_CUBIC)):
        if image.shape[:2] != target:
            shape = (*target, image.shape[2])
            image = cv2.resize(
                image, (target[1], target[0]), interpolation=flag
            ).reshape(shape)
    return image


def random_resized_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draws a crop box, distributed as torchvision's RandomResizedCrop.get_params.

    Ten attempts with area ~ U(scale) * h * w and w/h = exp(U(log ratio)); then the
    central crop with the nearest allowed ratio. Sides are rounded half to even.
    """
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return top, int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def crop(image: UInt8[np.ndarray, "h w c"], box: Box) -> UInt8[np.ndarray, "p q c"]:
    """Cuts the box out of the picture."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def center_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: int | tuple[int, int],
    crop_pct: float = 0.875,
    how: str = "area",
) -> UInt8[np.ndarray, "s t c"]:
    """Resizes the short side to floor(size / crop_pct), then crops the centre.

    The long side is truncated and the offset rounded half to even, as in timm's
    evaluation transform (torchvision's Resize and CenterCrop). For a size that is not
    square, the picture is resized to just cover floor(size / crop_pct), rounded (timm's
    ResizeKeepRatio).
    """
    size = (size, size) if isinstance(size, int) else size
    height, width = image.shape[:2]
    whole = center_target(height, width, size, crop_pct)
    if whole[0] * whole[1] <= strip.LARGEST:
        return _middle(resize(image, whole, how), size)
    middle = strip.pil_bicubic if how == "pil_bicubic" else strip.area
    return middle(image, whole, middle_box(whole, size))


def center_target(
    height: int, width: int, size: tuple[int, int], crop_pct: float
) -> tuple[int, int]:
    """The (height, width) to which `center_crop` resizes the whole picture."""
    rows, columns = squash_target(size, crop_pct)
    if rows != columns:
        ratio = min(height / rows, width / columns)
        return round(height / ratio), round(width / ratio)
    if height <= width:
        return rows, int(rows * width / height)
    return int(rows * height / width), rows


def squash_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    crop_pct: float = 1.0,
    how: str = "area",
) -> UInt8[np.ndarray, "s t c"]:
    """Resizes both sides to floor(size / crop_pct), then crops the centre.

    The aspect ratio is not kept.

    Equals timm's evaluation transform with `crop_mode="squash"`.
    """
    return _middle(resize(image, squash_target(size, crop_pct), how), size)


def squash_target(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """The (height, width) to which `squash_crop` resizes the whole picture."""
    return int(size[0] / crop_pct), int(size[1] / crop_pct)


def _middle(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "s t c"]:
    height, width = image.shape[:2]
    return crop(image, middle_box((height, width), size))


def middle_box(whole: tuple[int, int], size: tuple[int, int]) -> Box:
    """The central box of `size`; the offset is rounded half to even."""
    (height, width), (rows, columns) = whole, size
    return round((height - rows) / 2), round((width - columns) / 2), rows, columns

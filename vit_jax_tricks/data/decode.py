"""From the bytes of a file to uint8 pixels of a fixed size, on the host.

Sizes are (height, width) and boxes (top, left, height, width) in pixels.
"""

import contextlib
import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import UInt8


Box = tuple[int, int, int, int]
RESIZES = ("area", "pil_bicubic")
FAILURES = (OSError, ValueError, SyntaxError, EOFError, cv2.error)
PNG = b"\x89PNG\r\n\x1a\n"


def decode(data: bytes, channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of a JPEG, PNG, WebP or BMP file: RGB, or grey for `channels=1`.

    Alpha is dropped and palettes, CMYK and grey become RGB as Pillow's `convert` does;
    16-bit samples are scaled by 1/257; the rotation in a JPEG's EXIF is applied.

    Raises:
      UserError: The bytes are no complete picture.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data, channels)
        if data[:8] == PNG and len(data) > 25:
            return _png(data, channels)
        return _pillow(data, channels)
    except FAILURES as error:
        raise UserError(_why(error)) from error


def check(data: bytes) -> None:
    """Raises UserError unless `data` decodes to its last row, strictly.

    A JPEG is read in full but rebuilt at an eighth of its size, which is faster.
    """
    try:
        if data[:2] == b"\xff\xd8":
            with contextlib.suppress(ValueError):  # Pillow has the last word
                simplejpeg.decode_jpeg(data, "GRAY", min_factor=8)
                return
        _pillow(data, 3)
    except FAILURES as error:
        raise UserError(_why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture: neither JPEG, PNG, WebP nor BMP"
    return f"damaged: {str(error).splitlines()[0] if str(error) else 'unreadable'}"


def _jpeg(data: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    if b"Exif\0\0" in data[:4096]:
        with Image.open(io.BytesIO(data)) as image:
            if image.getexif().get(0x0112, 1) != 1:
                return _pillow(data, channels)
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
            return _pillow(data, channels)
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB")
    except ValueError:  # it also refuses flaws that Pillow reads over
        return _pillow(data, channels)


def _png(data: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    encoded = np.frombuffer(data, np.uint8)
    if data[24] == 16:
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if image is None:
            return _pillow(data, channels)
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if image.ndim == 3:
            image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
        return _as_channels(image, channels)
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image = cv2.imdecode(encoded, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return _pillow(data, channels) if image is None else _as_channels(image, channels)


def _pillow(data: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    return _as_channels(pixels, channels)


def _as_channels(image: np.ndarray, channels: int) -> UInt8[np.ndarray, "h w c"]:
    if image.ndim == 3 and channels == 1 and image.shape[2] != 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, 2) if image.shape[2] < channels else image


def resize(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int], how: str = "area"
) -> UInt8[np.ndarray, "p q c"]:
    """Resamples to `size` with antialiasing.

    `area` averages along an axis that shrinks and interpolates cubically along one
    that grows (OpenCV); `pil_bicubic` is Pillow's BICUBIC to the bit, slower.
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
    """A crop box by the law of torchvision's RandomResizedCrop.get_params.

    Ten tries of area ~ U(scale) * h * w and w/h = exp(U(log ratio)); then the central
    crop with the nearest allowed ratio. Sides round half to even.
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
    """The part of the picture inside the box."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def center_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: int | tuple[int, int],
    crop_pct: float = 0.875,
    how: str = "area",
) -> UInt8[np.ndarray, "s t c"]:
    """Evaluation's view: the short side to floor(size / crop_pct), then the centre.

    The long side truncates and the offset rounds half to even, as timm's evaluation
    transform does (torchvision's Resize and CenterCrop). For a size that is no square
    the picture just covers floor(size / crop_pct), rounded (timm's ResizeKeepRatio).
    """
    size = (size, size) if isinstance(size, int) else size
    height, width = image.shape[:2]
    return _middle(
        resize(image, center_target(height, width, size, crop_pct), how), size
    )


def center_target(
    height: int, width: int, size: tuple[int, int], crop_pct: float
) -> tuple[int, int]:
    """The (height, width) that `center_crop` resizes the whole picture to."""
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
    """Both sides to floor(size / crop_pct), whatever their ratio, then the centre.

    timm's evaluation transform with `crop_mode="squash"`.
    """
    return _middle(resize(image, squash_target(size, crop_pct), how), size)


def squash_target(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """The (height, width) that `squash_crop` resizes the whole picture to."""
    return int(size[0] / crop_pct), int(size[1] / crop_pct)


def _middle(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "s t c"]:
    height, width = image.shape[:2]
    return crop(image, middle_box((height, width), size))


def middle_box(whole: tuple[int, int], size: tuple[int, int]) -> Box:
    """The box of `size` in the middle; odd rests round half to even."""
    (height, width), (rows, columns) = whole, size
    return round((height - rows) / 2), round((width - columns) / 2), rows, columns

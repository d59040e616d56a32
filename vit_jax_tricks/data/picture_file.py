"""Opens picture files of every format under the same rules: size, rotation, depth.

Rotation: the EXIF orientation, as found by Pillow's `ImageOps.exif_transpose`; broken
EXIF is ignored. Depth: 16-bit samples v become round(v / 257), 12-bit samples round(v /
4095 * 255), and floats in [0, 1] round(255 v); 32-bit integers are read as 16-bit
levels. Values outside these ranges are ambiguous, and the file is rejected. Size: at
most twice `PIL.Image.MAX_IMAGE_PIXELS`; larger JPEGs are read at 1/2 to 1/8 size.
"""

import ctypes
import functools
import io
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.typing import Shaped, UInt8


FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),  # has no magic bytes, so it comes last
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
JPEGS = ("JPEG", "MPO")
REDUCTIONS = (2, 4, 8)  # factors by which JPEG decoding can reduce a picture
DEEP_COLOUR = ("RGB;16", "RGBX;16", "RGBA;16", "LA;16")  # Pillow reads only 8 bits
SIGNED = ("I;16S", "I;16BS", "I;16NS")
TIFF_KIND = 262  # PhotometricInterpretation: 0 if the largest value is black
PILLOW = r"PIL\."  # modules that warn of broken EXIF, truncated TIFFs and the like
ROUNDING = 1e-6  # tolerance for floats that should be 0 or 1


def opened(data: bytes) -> ImageFile.ImageFile:
    """Reads the file's header; a JPEG that is too large is set to a smaller size.

    Raises:
      UnidentifiedImageError: not a format of `FORMATS`.
      DecompressionBombError: more pixels than are allowed.
    """
    _hush()
    image = _identified(data)
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or width * height <= 2 * limit:
        return image
    for factor in REDUCTIONS if image.format in JPEGS else ():
        if width * height <= 2 * limit * factor**2:  # `draft` works once
            image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
            return image
    raise Image.DecompressionBombError(f"{width}x{height} pixels")


def _identified(data: bytes) -> ImageFile.ImageFile:
    """`Image.open` without its limit, its warnings, and formats that run programs."""
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            known = accept is None or accept(data[:16])
            if known and not isinstance(known, str):  # text: Pillow lacks a library
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


def _hush() -> None:
    """Silences warnings about flaws that are tolerated or rejected, in all threads."""
    _hush_libtiff()
    if not any(
        getattr(given[3], "pattern", "") == PILLOW for given in warnings.filters
    ):
        warnings.filterwarnings("ignore", category=UserWarning, module=PILLOW)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@functools.cache
def _hush_libtiff() -> None:
    """Stops Pillow's libtiff from printing what Pillow raises anyway.

    Its handlers belong to the process and are set once. Without them in reach, as in a
    Pillow that hides them, it goes on printing.
    """
    library = ctypes.CDLL(Image.core.__file__)  # finds what Pillow is linked with
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        setter = getattr(library, name, None)
        if setter is not None:
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        value = image.getexif().get(0x0112, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # Pillow fails in many ways on broken EXIF
        return 1


def upright(
    pixels: Shaped[np.ndarray, "..."], orientation: int
) -> Shaped[np.ndarray, "..."]:
    """Turns stored pixels as the EXIF orientation requires."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def read(
    image: ImageFile.ImageFile, data: bytes, channels: int
) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of an opened file, upright: RGB, or grey for `channels=1`.

    Raises:
      UserError: values that are ambiguous as 8 bits.
    """
    raw = _raw_mode(image)  # known only until the picture is loaded
    if image.format == "PNG":  # EXIF may come last, so reading it loads the picture,
        image.load()  # and a decoding error would look like an EXIF error
    turn = orientation(image)
    pixels = _deep_colour(data, raw)
    if pixels is None:
        inverted = getattr(image, "tag_v2", {}).get(TIFF_KIND) == 0
        image.load()
        turn = 1 if image.format == "TIFF" else turn  # already turned by loading
        image.info.pop("transparency", None)  # `convert` would warn about it
        pixels = _eight_bits(image, raw, inverted)
    return upright(converted(pixels, channels), turn)


def converted(
    pixels: UInt8[np.ndarray, "..."] | Image.Image, channels: int
) -> UInt8[np.ndarray, "h w c"]:
    """Converts 8-bit colours or greys as Pillow's `convert` does."""
    if isinstance(pixels, np.ndarray) and pixels.ndim == channels == 3:
        return pixels
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    found = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return found.reshape(*found.shape[:2], channels)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """The file's sample format, in Pillow's terms; "" if unknown."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _deep_colour(data: bytes, raw: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """16-bit colours of a PNG or TIFF, as stored, without alpha; otherwise None."""
    if not raw.startswith(DEEP_COLOUR):
        return None
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        return None
    return cv2.cvtColor(_scaled(found[..., :3], 65535), cv2.COLOR_BGR2RGB)


def _eight_bits(
    image: Image.Image, raw: str, inverted: bool
) -> UInt8[np.ndarray, "h w"] | Image.Image:
    """The picture itself, or 8-bit levels if its samples are deeper."""
    if image.mode == "F":
        values = np.asarray(image)
        low, high = _range(values)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UserError(_deep("floats", low, high, "0 to 1"))
        return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    top = 4095 if raw == "I;12" else 65535
    low, high = _range(values)
    if low < 0 or high > top or raw in SIGNED:
        kind = "signed 16-bit values" if raw in SIGNED else "integers"
        raise UserError(_deep(kind, low, high, f"unsigned ones of 0 to {top}"))
    levels = _scaled(values, top)
    return 255 - levels if inverted else levels


def _scaled(values: Shaped[np.ndarray, "..."], top: int) -> UInt8[np.ndarray, "..."]:
    """round(255 v / top)."""
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _range(values: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _deep(kind: str, low: float, high: float, expected: str) -> str:
    return (
        f"{kind} from {low:g} to {high:g}, but {expected} are read; save it with 8 bits"
    )

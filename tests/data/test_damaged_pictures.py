"""Damaged pictures of every format: refused, or read as Pillow reads them."""

import io
import warnings

import cv2
import numpy as np
import PIL.Image
import pytest
from damage import damage_file

from vit_jax_tricks.data import decode
from vit_jax_tricks.errors import UserError


FORMATS = {
    "jpg": ("JPEG", "RGB", {}),
    "progressive.jpg": ("JPEG", "RGB", {"progressive": True}),
    "grey.jpg": ("JPEG", "L", {}),
    "cmyk.jpg": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "palette.png": ("PNG", "P", {}),
    "webp": ("WEBP", "RGB", {}),
    "lossless.webp": ("WEBP", "RGB", {"lossless": True}),
    "bmp": ("BMP", "RGB", {}),
    "gif": ("GIF", "P", {}),
    "tif": ("TIFF", "RGB", {}),
    "deflate.tif": ("TIFF", "RGB", {"compression": "tiff_deflate"}),
    "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "jpeg.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
    "avif": ("AVIF", "RGB", {}),
    "jp2": ("JPEG2000", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "pcx": ("PCX", "RGB", {}),
    "sgi": ("SGI", "RGB", {}),
    "tga": ("TGA", "RGB", {}),
    "qoi": ("QOI", "RGB", {}),
}
DEEP = ("deep.png", "deep.tif")  # 16-bit colours, which Pillow cuts to 8 bits
NOISE = np.random.default_rng(0).integers(0, 65536, (24, 24, 3), np.uint16)


def written(path):
    if path.name.endswith(DEEP):
        cv2.imwrite(str(path), NOISE)
        return
    kind, mode, options = FORMATS[path.name.removeprefix("a.")]
    image = PIL.Image.fromarray((NOISE >> 8).astype(np.uint8)).convert(mode)
    image.save(path, kind, **options)


def by_pillow(data):
    """The pixels, or None where Pillow refuses them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception:  # Pillow fails in many ways
            return None


def by_us(read, data, case):
    """What a function of `decode` returns, or the line that refuses the picture."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = read(data)
        except UserError as error:
            found = str(error)
    assert not warned, case
    assert not isinstance(found, str) or "\n" not in found, case
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMATS, *DEEP])
def test_damaged(name, tmp_path, capfd):
    """Libraries print nothing of their own, not even by the file descriptor."""
    for seed in range(60):
        path = tmp_path / f"a.{name}"
        written(path)
        case = f"{damage_file(path, f'{name} {seed}')} {seed}"
        data = path.read_bytes()
        checked = by_us(decode.check, data, case)
        found = by_us(decode.decode, data, case)
        assert capfd.readouterr().err == "", case
        expected = by_pillow(data)
        assert (checked is None) == isinstance(found, np.ndarray), case
        if checked is None:
            assert expected is not None, case
            if name not in DEEP:
                np.testing.assert_array_equal(found, expected, err_msg=case)

"""One rule for every format: rotation, colours, depth and size are Pillow's."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from vit_jax_tricks.data import decode, picture_file, strip
from vit_jax_tricks.errors import UserError


RAMP = np.tile(np.arange(0, 256, 3), (8, 1))


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def orientation_exif(value, order="<"):
    """A TIFF header with the one tag, little- or big-endian."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x112, 3, 1, value, 0)
    return mark + struct.pack(f"{order}IH", 8, 1) + entry + struct.pack("<I", 0)


def jpeg_with(data, *segments):
    for marker, payload in reversed(segments):
        head = bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2)
        data = data[:2] + head + payload + data[2:]
    return data


def chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def close(result, expected, most=1):
    expected = np.asarray(expected)
    assert result.shape[:2] == expected.shape[:2]
    expected = expected.reshape(*expected.shape[:2], -1).astype(int)
    assert np.abs(result - expected).max() <= most


def upright(data):
    image = PIL.Image.open(io.BytesIO(data))
    return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))


SPREAD = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "JPEG": {"quality": 95}}


@pytest.mark.parametrize("kind", [*SPREAD, "AVIF"])
def test_every_orientation_of_every_format(picture, kind):
    image = picture(0, (24, 40))
    for value in range(1, 9):
        exif = PIL.Image.Exif()
        exif[0x112] = value
        data = encoded(image, kind, exif=exif, **SPREAD.get(kind, {}))
        expected = upright(data)
        close(decode.decode(data), expected)
        grey = PIL.Image.fromarray(expected).convert("L")
        close(decode.decode(data, 1), grey)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "before",
    [
        (),
        ((0xED, b"Photoshop 3.0\0" + bytes(8000)),),
        ((0xE2, b"ICC_PROFILE\0\1\1" + bytes(60000)), (0xFE, b"x" * 60000)),
    ],
)
def test_exif_anywhere_among_the_segments(picture, order, before):
    plain = encoded(picture(1, (24, 40)), "JPEG", quality=95)
    exif = (0xE1, b"Exif\0\0" + orientation_exif(6, order))
    data = jpeg_with(plain, *before, exif)
    assert decode.decode(data).shape == (40, 24, 3)
    close(decode.decode(data), upright(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_exif_of_a_png_before_and_after_its_pixels(order, last, depth):
    import cv2

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    wide = pixels.astype(np.uint16) * 257 if depth == 16 else pixels
    plain = cv2.imencode(".png", wide[..., ::-1])[1].tobytes()
    place = len(plain) - 12 if last else 33
    exif = chunk(b"eXIf", orientation_exif(5, order))
    data = plain[:place] + exif + plain[place:]
    np.testing.assert_array_equal(decode.decode(data), pixels.swapaxes(0, 1))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        orientation_exif(6)[:12],
        orientation_exif(0),
        orientation_exif(9),
        b"\0" * 40,
        b"garbage" * 9,
    ],
)
def test_broken_exif_is_ignored(picture, exif):
    image = picture(2, (24, 40))
    plain = encoded(image, "JPEG", quality=95)
    expected = np.asarray(PIL.Image.open(io.BytesIO(plain)))
    close(decode.decode(jpeg_with(plain, (0xE1, b"Exif\0\0" + exif))), expected)
    png = encoded(image, "PNG")
    data = png[:33] + chunk(b"eXIf", exif) + png[33:]
    np.testing.assert_array_equal(decode.decode(data), np.asarray(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("GIF", mode) for mode in ("L", "P")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("JPEG2000", mode) for mode in ("L", "RGB", "RGBA")),
        *(("PPM", mode) for mode in ("1", "L", "RGB")),
        *(("TGA", mode) for mode in ("L", "P", "RGB", "RGBA")),
        ("AVIF", "RGBA"),
        ("PCX", "P"),
        ("SGI", "RGB"),
        ("QOI", "RGBA"),
    ],
)
def test_colours_are_pillow_s_in_every_format(kind, mode, channels):
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    image = PIL.Image.fromarray(noise)
    image = image.convert("RGB").convert(mode) if "A" not in mode else image
    data = encoded(image.convert(mode), kind)
    rgb = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    close(decode.decode(data, channels), rgb.convert("L") if channels == 1 else rgb)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_transparent_colours_of_a_palette_are_dropped(picture, transparency):
    image = picture(1).convert("P")
    data = encoded(image, "PNG", transparency=transparency)
    np.testing.assert_array_equal(decode.decode(data), np.asarray(image.convert("RGB")))
    close(decode.decode(data, 1), image.convert("RGB").convert("L"))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"sRGB", b"\0"),
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"gAMA", struct.pack(">I", 100000)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_gamma_of_a_png_changes_no_grey(extra, mode):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(noise).convert(mode)
    plain = encoded(image, "PNG")
    close(
        decode.decode(plain[:33] + extra + plain[33:], 1),
        image.convert("RGB").convert("L"),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "dtype", "top", "options"),
    [
        ("PNG", np.uint16, 65535, {}),
        ("TIFF", np.uint16, 65535, {}),
        ("TIFF", ">u2", 65535, {}),
        ("TIFF", np.uint16, 65535, {"compression": "tiff_lzw"}),
        ("JPEG2000", np.uint16, 65535, {}),
        ("PPM", np.uint16, 65535, {}),
        ("TIFF", np.int32, 65535, {}),
        ("TIFF", np.float32, 1.0, {}),
        ("PPM", np.float32, 1.0, {}),
    ],
)
def test_deep_greys_are_scaled(kind, dtype, top, options, channels):
    levels = (RAMP / 255 * top).astype(dtype)
    data = encoded(PIL.Image.fromarray(levels), kind, **options)
    result = decode.decode(data, channels)
    assert result.shape == (*RAMP.shape, channels)
    np.testing.assert_array_equal(result, np.repeat(RAMP[..., None], channels, 2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bit_colours_round(suffix, alpha):
    import cv2

    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (9, 8, 4 if alpha else 3), dtype=np.uint16)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    expected = np.round(deep[..., 2::-1] / 257).astype(int)
    np.testing.assert_array_equal(decode.decode(data), expected)
    grey = expected @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode.decode(data, 1)[..., 0] - grey).max() < 1


def test_sixteen_bits_round_to_the_nearest():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = encoded(PIL.Image.fromarray(levels), "PNG")
    expected = np.round(levels.astype(np.float64) / 257)
    np.testing.assert_array_equal(decode.decode(data, 1)[..., 0], expected)


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (RAMP.astype(np.float32), "floats from 0 to 255, but 0 to 1 are read"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan"),
        (np.full((4, 4), -0.5, np.float32), "floats from -0.5"),
        (np.full((4, 4), 70000, np.int32), "integers from 70000 .* 0 to 65535"),
        (np.full((4, 4), -1, np.int32), "integers from -1"),
    ],
)
def test_levels_without_one_meaning_are_refused(levels, said):
    data = encoded(PIL.Image.fromarray(levels), "TIFF")
    for function in (decode.decode, decode.check):
        with pytest.raises(UserError, match=said) as error:
            function(data)
        assert "\n" not in str(error.value)


def tiff(tags, pixels):
    """A TIFF of one strip with these SHORT tags."""
    tags = sorted((tags | {256: 4, 257: 1, 278: 1, 279: len(pixels)}).items())
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags = sorted([*tags, (273, start)])
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, v, 0) for tag, v in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + pixels


def test_odd_tiffs():
    levels = np.array([0, 257, 257 * 100, 65535], "<u2")
    white_is_0 = tiff({258: 16, 259: 1, 262: 0, 277: 1}, levels.tobytes())
    assert decode.decode(white_is_0, 1).ravel().tolist() == [255, 254, 155, 0]
    signed = tiff({258: 16, 259: 1, 262: 1, 277: 1, 339: 2}, levels.tobytes())
    with pytest.raises(UserError, match="signed 16-bit values"):
        decode.decode(signed)
    twelve = tiff({258: 12, 259: 1, 262: 1, 277: 1}, bytes.fromhex("000fff800001"))
    expected = [0, 255, round(0x800 / 4095 * 255), 0]
    assert decode.decode(twelve, 1).ravel().tolist() == expected


def test_adobe_s_inverted_cmyk(picture):
    data = encoded(picture(3).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    expected = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    close(decode.decode(data), expected)
    assert abs(decode.decode(data).mean() - np.asarray(picture(3)).mean()) < 25


def test_grey_of_saturated_colours_in_a_jpeg():
    """Luma alone is off by 26 here: colours outside of RGB are clipped first."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(PIL.Image.fromarray(noise), "JPEG")
    close(decode.decode(data, 1), PIL.Image.open(io.BytesIO(data)).convert("L"))


def test_animations_give_their_first_frame(picture):
    frames = [picture(seed) for seed in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )
        close(decode.decode(data), PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def test_suffixes_are_those_that_pillow_knows():
    PIL.Image.init()
    known = PIL.Image.registered_extensions()
    names = {"MPO": "JPEG"}
    for kind, suffixes in picture_file.FORMATS.items():
        for suffix in suffixes:
            assert names.get(known[suffix], known[suffix]) == kind


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_too_many_pixels_are_one_line(kind, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 500)
    data = encoded(PIL.Image.new("RGB", (50, 30)), kind)
    for function in (decode.decode, decode.check):
        with pytest.raises(UserError, match=r"too large .*: at most 1000 pixels"):
            function(data)
    if kind not in ("TIFF", "WEBP"):  # where Pillow's own check warns
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    else:
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert decode.decode(data).shape == (30, 50, 3)


@pytest.mark.parametrize(("limit", "factor"), [(500, 1), (499, 2), (32, 4), (8, 8)])
def test_jpegs_that_are_too_large_are_read_smaller(picture, monkeypatch, limit, factor):
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    image = picture(0, (25, 40))
    data = encoded(image, "JPEG", quality=95, exif=exif)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    decode.check(data)
    result = decode.decode(data)
    assert result.shape == (40 // factor, -(-25 // factor), 3)
    turned = image.transpose(PIL.Image.Transpose.ROTATE_270)
    expected = np.asarray(turned, np.float64).mean((0, 1))
    assert np.abs(result.mean((0, 1)) - expected).max() < 8


def test_jpegs_beyond_an_eighth_are_refused(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1)
    data = encoded(PIL.Image.new("RGB", (50, 30)), "JPEG")
    for function in (decode.decode, decode.check):
        with pytest.raises(
            UserError, match=r"too large \(50x30 pixels\): at most 2 pixels"
        ):
            function(data)


def test_damaged_files_are_one_line(picture):
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000", "AVIF"):
        good = bytearray(encoded(picture(0, (16, 16)), kind))
        for _ in range(40):
            data = bytearray(good)
            for place in rng.integers(0, len(data), 6):
                data[place] = rng.integers(256)
            data = data[: int(rng.integers(1, len(data) + 1))]
            said = ""
            try:
                assert decode.decode(bytes(data)).ndim == 3
            except UserError as error:
                said = str(error)
            assert "\n" not in said


@pytest.mark.parametrize("shape", [(3, 900), (900, 3), (40, 700), (700, 40)])
@pytest.mark.parametrize("how", decode.RESIZES)
@pytest.mark.parametrize("size", [32, (20, 44)])
def test_long_pictures_are_cropped_before_they_grow(
    picture, monkeypatch, shape, how, size
):
    for image in (
        np.asarray(picture(0, shape)),
        np.asarray(picture(1, shape))[..., :1],
    ):
        monkeypatch.setattr(strip, "LARGEST", 10**9)
        expected = decode.center_crop(image, size, how=how)
        monkeypatch.setattr(strip, "LARGEST", 0)
        most = 2 if how == "pil_bicubic" else 1  # its order of the axes may differ
        close(decode.center_crop(image, size, how=how), expected, most)


@pytest.mark.parametrize("how", decode.RESIZES)
def test_a_strip_needs_little_memory(how):
    import tracemalloc

    image = np.zeros((4, 20000, 3), np.uint8)
    image[:, 9000:11000] = 200
    tracemalloc.start()
    result = decode.center_crop(image, 224, how=how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert (result == 200).all()


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA"])
def test_a_png_with_a_changed_byte(mode):
    """Refused wherever Pillow refuses it: in the pixels, which have a checksum."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = PIL.Image.fromarray(noise)
    sound = encoded(image.convert(mode), "PNG")
    start = sound.index(b"IDAT") + 4
    for at in range(start, len(sound) - 16):
        changed = bytearray(sound)
        changed[at] ^= 255
        for reads in (decode.check, decode.decode):
            with pytest.raises(UserError, match="damaged"):
                reads(bytes(changed))

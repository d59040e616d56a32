"""Every kind of file becomes the pixels that Pillow gives; crops follow their laws."""

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import weight_files
from goldens import load_golden

from vit_jax_tricks.data import decode
from vit_jax_tricks.errors import UserError


GOLDEN = pathlib.Path(__file__).parents[1] / "golden/augment/crop_resize_photo.npz"


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_files_keep_every_pixel(picture, kind):
    image = picture(0)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(
        decode.decode(encoded(image, kind, **options)), np.asarray(image)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_modes_become_rgb_as_pillow_does(picture, mode):
    image = picture(1).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode.decode(data), expected)


def test_palette_with_transparency_drops_alpha(picture):
    image = picture(1).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode.decode(data), np.asarray(image.convert("RGB")))


def test_grey_jpeg_becomes_rgb_and_stays_grey(picture):
    data = encoded(picture(2).convert("L"), "JPEG")
    rgb, grey = decode.decode(data), decode.decode(data, channels=1)
    assert grey.shape == (48, 40, 1)
    np.testing.assert_array_equal(rgb, np.repeat(grey, 3, axis=2))


def test_colour_jpeg_agrees_with_pillow(picture):
    data = encoded(picture(3), "JPEG", quality=95)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(decode.decode(data) - expected).max() <= 1


def test_sixteen_bits_are_scaled_not_cut():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = encoded(PIL.Image.fromarray(values), "PNG")
    expected = np.arange(256).reshape(16, 16)
    for channel in range(3):
        np.testing.assert_array_equal(decode.decode(data)[..., channel], expected)
    np.testing.assert_array_equal(decode.decode(data, 1)[..., 0], expected)


def test_sixteen_bit_colour_keeps_channel_order():
    import cv2

    bgr = np.zeros((4, 5, 3), np.uint16)
    bgr[..., 0], bgr[..., 2] = 257 * 10, 257 * 200
    data = cv2.imencode(".png", bgr)[1].tobytes()
    np.testing.assert_array_equal(decode.decode(data)[0, 0], [200, 0, 10])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(picture, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(4), "JPEG", exif=exif, quality=95)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    result = decode.decode(data)
    assert result.shape[:2] == expected.size[::-1]
    assert np.abs(result - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_file_is_found(picture, kind):
    data = encoded(picture(5), kind)
    decode.check(data)
    with pytest.raises(UserError):
        decode.check(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_said_so(data):
    for function in (decode.check, decode.decode):
        with pytest.raises(UserError, match=r"not a picture|damaged"):
            function(data)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 400, (0, 133, 100, 133)), (400, 100, (133, 0, 133, 100))],
)
def test_random_box_falls_back_to_the_centre(height, width, box):
    rng = np.random.default_rng(0)
    assert decode.random_resized_box(rng, height, width, scale=(1.0, 1.0)) == box


def test_random_box_follows_the_law():
    rng = np.random.default_rng(0)
    boxes = np.array([decode.random_resized_box(rng, 300, 500) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 500).all()
    area, ratio = height * width / 150_000, width / height
    assert 0.078 < area.min() < 0.09
    assert area.max() > 0.7
    # log-uniform: as many boxes are wide as are high, while small areas rarely miss
    small = area < 0.3
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert ratio.min() > 0.72
    assert ratio.max() < 1.39
    assert abs((left / np.maximum(500 - width, 1)).mean() - 0.5) < 0.02


def test_pillow_bicubic_matches_the_reference():
    golden = np.load(GOLDEN)
    image = golden["input"]
    boxes = [(0, 0, 64, 64), (5, 3, 20, 24), (32, 16, 32, 32), (1, 2, 9, 7)]
    for number, box in enumerate(boxes):
        result = decode.resize(decode.crop(image, box), (24, 24), "pil_bicubic")
        expected = golden[f"crop{number}_to24_bicubic"].astype(int)
        assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize(("crop_pct", "short"), [(0.875, 36), (0.85, 37)])
def test_evaluation_view_matches_the_reference(crop_pct, short):
    golden = np.load(GOLDEN)
    result = decode.center_crop(golden["input"], 32, crop_pct, "pil_bicubic")
    expected = golden[f"eval_resize{short}_crop32_bicubic"].astype(int)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (33, 33), (640, 427)])
@pytest.mark.parametrize("how", decode.RESIZES)
def test_evaluation_view_has_its_size_for_any_shape(shape, how):
    for channels in (1, 3):
        image = np.full((*shape, channels), 77, np.uint8)
        result = decode.center_crop(image, 32, how=how)
        assert result.shape == (32, 32, channels)
        assert (result == 77).all()


def test_area_averages_when_shrinking_and_interpolates_when_growing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    halves = image.reshape(4, 2, 2, 2, 3).mean((1, 3))
    assert np.abs(decode.resize(image, (4, 2)) - halves).max() <= 0.5
    assert decode.resize(image, (4, 16)).shape == (4, 16, 3)
    ramp = np.repeat(np.arange(0, 160, 20, dtype=np.uint8)[:, None, None], 3, 2)
    grown = decode.resize(ramp, (32, 1))[4:-4, 0, 0].astype(int)
    assert (np.diff(grown) >= 0).all()
    assert len(np.unique(grown)) > 16


def test_an_unknown_resize_is_named():
    with pytest.raises(UserError, match='Did you mean "area"'):
        decode.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), "aera")


CASES, VIEWS = load_golden("pretrained/views")


@pytest.mark.parametrize("case", CASES["cases"])
@pytest.mark.parametrize("shape", ["45x70", "61x40"])
def test_evaluation_views_are_timm_s_to_the_bit(case, shape):
    options = CASES["cases"][case]
    size = options["img_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    image = weight_files.smooth_image(*map(int, shape.split("x")))
    squash = options.get("crop_mode") == "squash"
    crop = decode.squash_crop if squash else decode.center_crop
    pixels = crop(image, size, options["crop_pct"], "pil_bicubic")
    np.testing.assert_array_equal(pixels, VIEWS[f"{case}:{shape}"])

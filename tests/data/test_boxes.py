"""The box of a view says which part of the picture its pixels are."""

import cv2
import numpy as np
import pytest

from vit_jax_tricks.data.views import View


def ramp(height, width):
    """A picture whose channels are 255 times the place, (x, y) in 0..1, losslessly."""
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    image = np.stack([x, y, np.zeros_like(x)], axis=-1)
    pixels = np.round(255 * image).astype(np.uint8)
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("crop", ["whole", "center", "squash", "random_resized"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_box_is_where_the_pixels_are(crop, size):
    view = View(size, 3, crop, 0.8, "area", crop_scale=(0.2, 0.5))
    for seed, shape in enumerate([(90, 120), (140, 100), (64, 64)]):
        pixels, box = view.train(ramp(*shape), np.random.default_rng(seed))
        assert pixels.shape == (*size, 3)
        top, left, height, width = box
        x = left + width * (np.arange(size[1]) + 0.5) / size[1]
        y = top + height * (np.arange(size[0]) + 0.5) / size[0]
        # Half a pixel of a crop's edge may be cut off, and the edges interpolate.
        inside = pixels[2:-2, 2:-2].astype(float) / 255
        np.testing.assert_allclose(inside[0, :, 0], x[2:-2], atol=0.013)
        np.testing.assert_allclose(inside[:, 0, 1], y[2:-2], atol=0.013)
        if crop != "random_resized":
            np.testing.assert_array_equal(view.test(ramp(*shape)), pixels)

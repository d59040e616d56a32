"""The sheet shows each picture once, enlarged, in reading order."""

import numpy as np
import PIL.Image
import pytest

from vit_jax_tricks.inspect.contact_sheet import TEXT_HEIGHT, contact_sheet


def test_pictures_stand_in_reading_order(tmp_path):
    images = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(1, 6)]
    path = contact_sheet(images, list("abcde"), tmp_path / "s.png", columns=2, zoom=2.0)
    sheet = np.asarray(PIL.Image.open(path))
    assert sheet.shape == (3 * (16 + TEXT_HEIGHT), 2 * 18, 3)
    for i in range(5):
        top, left = i // 2 * (16 + TEXT_HEIGHT), i % 2 * 18
        assert (sheet[top : top + 16, left : left + 16] == 20 * (i + 1)).all()


def test_grey_pictures_and_masks_are_welcome(tmp_path):
    images = [np.full((4, 4), 9, np.uint8), np.full((4, 4, 1), 9, np.uint8)]
    path = contact_sheet(images, ["", ""], tmp_path / "s.png")
    assert (np.asarray(PIL.Image.open(path))[:8, :8] == 9).all()


@pytest.mark.parametrize("captions", [[], ["one"]])
def test_captions_must_fit(captions, tmp_path):
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)] * 2, captions, tmp_path / "s.png")

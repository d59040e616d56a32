"""Class names on pictures: every letter drawn, nothing over its neighbour."""

import numpy as np
import PIL.Image
import pytest

from vit_jax_tricks.inspect import lettering, prediction_sheet
from vit_jax_tricks.inspect.contact_sheet import TEXT_HEIGHT, contact_sheet


SIZE = 11
LONG = "Ünï cörn with a rather long name that goes on and on and on and on"


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine with the bundled font alone."""
    monkeypatch.setattr(lettering, "_installed", list)


def picture(letters, text):
    image = PIL.Image.new("RGB", (200, 20))
    letters.draw(PIL.ImageDraw.Draw(image), (0, 0), text, SIZE)
    return np.asarray(image)


def test_letters_outside_ascii_differ(no_fonts, capsys):
    """Boxes would be equal."""
    letters = lettering.lettering(["Ünïλж"])
    drawn = [picture(letters, c).tobytes() for c in "Üïλж?"]
    assert len(set(drawn)) == 5
    assert capsys.readouterr().out == ""


def test_unknown_letters_are_said_once(no_fonts, capsys):
    letters = lettering.lettering(["猫 cat", "猫\udce9"])
    assert letters.shown("猫 cat\n猫\udce9") == "? cat ??"
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "U+732B" in out
    assert "U+DCE9" in out


@pytest.mark.parametrize("width", [40, 150, 400])
@pytest.mark.parametrize("text", [LONG, "W" * 90, "a b", ""])
def test_lines_fit(text, width, no_fonts):
    letters = lettering.lettering([text])
    lines = letters.wrapped(text, width, SIZE, 3)
    assert len(lines) <= 3
    assert all(letters.width(line, SIZE) <= width for line in lines)
    joined = " ".join(lines)
    assert joined == text or (
        joined.endswith("…") and text.startswith(joined.rstrip("…"))
    )


def test_captions_stay_below_their_pictures(tmp_path, no_fonts):
    """Column by column: what one caption draws does not change with its neighbours."""
    images = [np.zeros((60, 60, 3), np.uint8)] * 3
    captions = [LONG, "0.62 Ünï cörn 0.38 a very long name", "W" * 50]
    whole, alone = [], []
    for k, caption in enumerate(captions):
        others = ["" if i != k else caption for i in range(3)]
        path = contact_sheet(images, others, tmp_path / "one.png", zoom=1.0)
        alone.append(np.asarray(PIL.Image.open(path)))
    path = contact_sheet(images, captions, tmp_path / "all.png", zoom=1.0)
    whole = np.asarray(PIL.Image.open(path))
    for k, one in enumerate(alone):
        rows, left = one.shape[0], 62 * k
        expected = whole[:rows, left : left + 62]
        np.testing.assert_array_equal(one[:, left : left + 62], expected)
        assert one[:60].max() == 0
        assert one[60 : 60 + TEXT_HEIGHT, left : left + 62].max() == 255


def test_predictions_with_any_names(tmp_path, no_fonts, capsys):
    pixels = np.zeros((8, 8, 3), np.uint8)
    rows = [(f"{LONG}.png", pixels, [("猫", 0.9), (LONG, 0.05), ("$x$ [/b]", 0.01)])]
    path = prediction_sheet.write_sheet(tmp_path / "sheet.png", rows)
    with PIL.Image.open(path) as sheet:
        assert sheet.size == (900, int(120 * 1.64))
    assert "U+732B" in capsys.readouterr().out

"""The sheet of a config's augmentation, from the command line."""

import numpy as np
import PIL.Image
import pytest

from vit_jax_tricks.inspect import augment_sheet
from vit_jax_tricks.inspect.__main__ import main


DIGITS = {"zero", "one", "two", "three", "four"}
DIGITS |= {"five", "six", "seven", "eight", "nine"}
FULL = (
    "--config=configs/digits.py",
    "--config.augment.flip=True",
    "--config.augment.auto_augment=rand-m9-mstd0.5-inc1",
    "--config.augment.color_jitter=0.4",
    "--config.augment.erasing=1.0",
)


def sheet(tmp_path, monkeypatch, *argv):
    """The picture, and what was written under its tiles, row by row."""
    seen = {}
    original = augment_sheet.contact_sheet

    def spy(tiles, captions, path, **options):
        columns = options["columns"]
        seen["rows"] = [
            captions[i : i + columns] for i in range(0, len(captions), columns)
        ]
        seen["tiles"] = tiles
        return original(tiles, captions, path, **options)

    monkeypatch.setattr(augment_sheet, "contact_sheet", spy)
    output = tmp_path / "sheet.png"
    assert main(["augment", *argv, f"--output={output}"]) == 0
    with PIL.Image.open(output) as picture:
        assert picture.size[0] > 3 * augment_sheet.TILE
    return seen["rows"], seen["tiles"]


@pytest.mark.slow
def test_a_row_for_each_stage(home, tmp_path, monkeypatch, capsys):
    rows, tiles = sheet(tmp_path, monkeypatch, *FULL, "--images=4")
    assert len(rows) == 7
    original, flip, policy, jitter, affine, erasing, mixed = rows
    assert set(original) <= DIGITS
    assert (flip, jitter, affine) == (["flip"] * 4, ["jitter"] * 4, ["affine"] * 4)
    assert erasing == ["erasing"] * 4
    assert any(name != "no operation" for name in policy)
    for i, text in enumerate(mixed):  # with its partner, 3 - i
        words = text.split()
        assert words[1] in (original[i], original[3 - i])
        assert sum(map(float, words[::2])) == pytest.approx(1, abs=0.02)
    assert not np.array_equal(tiles[0], tiles[-4])
    said = capsys.readouterr().out
    assert "images: " in said
    assert "4 images of 1,438 in train, sampled over 3 of the 10 classes" in said

    fewer, others = sheet(
        tmp_path,
        monkeypatch,
        "--config.augment.mixup=0.0",
        "--images=4",
        "--step=3",
    )
    assert len(fewer) == 2  # the picture and its affine warp
    assert fewer[0] == original  # the same pictures at any step, by other draws
    np.testing.assert_array_equal(others[:4], tiles[:4])
    at_first, _ = sheet(tmp_path, monkeypatch, *FULL, "--images=4", "--config.seed=1")
    assert at_first[0] != original


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["augment", "--output=sheet.jpg"], "ends in .png"),
        (["augment", "--images=0"], "at least 1"),
        (["augment", "--step=-1"], "at least 0"),
        (["augment", "--config.augment.auto_augment=rnd"], 'Did you mean "rand"'),
        (["augmnt"], 'Did you mean "augment"'),
        ([], "Valid: augment, models"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(home, argv, message, capsys):
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1

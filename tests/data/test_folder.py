"""Folders of pictures: classes, splits, and every way they can be wrong."""

import re
import shutil

import numpy as np
import PIL.Image
import pytest

from vit_jax_tricks.data import build
from vit_jax_tricks.data import folder as folder_source
from vit_jax_tricks.errors import UserError


def read(path, **options):
    options = {"skip_broken": False, "split_seed": 0, "test_fraction": 0.2} | options
    return folder_source.open_folder(str(path), **options)


def test_classes_are_the_sorted_folder_names(folder):
    source = read(folder(classes=("zebra", "ant", "Bee")))
    assert source.class_names == ["Bee", "ant", "zebra"]
    for records in (source.train, source.test):
        for path, label in zip(records.paths, records.labels, strict=True):
            assert path.split("/")[0] == source.class_names[label]


def test_every_picture_is_in_one_split_and_every_class_in_both(folder):
    source = read(folder(count=30, classes=("a", "b", "c")))
    train, test = set(source.train.paths), set(source.test.paths)
    assert not train & test
    assert len(train | test) == 90
    for records in (source.train, source.test):
        assert set(records.labels.tolist()) == {0, 1, 2}
    assert 8 <= len(test) <= 28


def test_classes_of_two_pictures_give_one_to_each_split(folder):
    source = read(folder(count=2))
    np.testing.assert_array_equal(source.train.labels, [0, 1])
    np.testing.assert_array_equal(source.test.labels, [0, 1])


def test_the_split_survives_added_pictures_and_moved_roots(folder, picture):
    root = folder(count=20)
    before = read(root)
    for i in range(20, 30):
        picture(i).save(root / "cat" / f"{i}.png")
    after = read(root)
    assert set(before.train.paths) <= set(after.train.paths)
    assert set(before.test.paths) <= set(after.test.paths)
    moved = shutil.move(root, root.with_name("elsewhere"))
    assert read(moved).test.paths == after.test.paths


def test_the_split_depends_on_its_seed_and_fraction(folder):
    root = folder(count=40)
    assert read(root).test.paths != read(root, split_seed=1).test.paths
    assert len(read(root, test_fraction=0.5).test) > len(read(root).test)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_given_splits_are_used(folder, held_out):
    root = folder("pictures/train", count=3)
    folder(f"pictures/{held_out}", count=2)
    source = read(root.parent)
    assert (len(source.train), len(source.test)) == (6, 4)
    assert source.train.paths[0] == "train/cat/00.jpg"
    assert source.class_names == ["cat", "dog"]


def test_a_class_may_be_called_train(folder):
    assert read(folder(classes=("plane", "train"))).class_names == ["plane", "train"]


def test_suffixes_in_any_case_and_nested_folders_count(folder, picture):
    root = folder(count=1, suffix="JPG")
    (root / "cat" / "more").mkdir()
    for i, suffix in enumerate(["jpeg", "Png", "webp", "bmp"]):
        picture(i).save(root / "cat" / "more" / f"x.{suffix}")
        picture(i).save(root / "dog" / f"x.{suffix}")
    (root / "cat" / "notes.txt").write_text("no picture")
    (root / "cat" / "._00.jpg").write_text("left by a file manager")
    (root / ".hidden").mkdir()
    source = read(root)
    assert len(source.train) + len(source.test) == 10


def bad(tmp_path, folder, what):
    root = folder(count=4)
    victim = root / "cat" / "01.jpg"
    if what == "truncated":
        victim.write_bytes(victim.read_bytes()[:-200])
    elif what == "text":
        victim.write_text("this is no picture")
    elif what == "empty file":
        victim.write_bytes(b"")
    elif what == "folder":
        victim.unlink()
        (root / "cat" / "sub.jpg").symlink_to(tmp_path / "nowhere.jpg")
    return root


@pytest.mark.parametrize("what", ["truncated", "text", "empty file", "folder"])
def test_broken_pictures_stop_the_run_or_are_left_out(tmp_path, folder, what, capsys):
    root = bad(tmp_path, folder, what)
    with pytest.raises(UserError, match=r"1 of 8 pictures.*cat/.*skip_broken=True"):
        read(root)
    source = read(root, skip_broken=True)
    assert len(source.train) + len(source.test) == 7
    assert not any("cat/01.jpg" in r.paths for r in (source.train, source.test))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search("Left out: 1 of 8 pictures .*cat/", told)


def test_many_broken_pictures_stay_one_line(folder):
    root = folder(count=30)
    for path in (root / "cat").iterdir():
        path.write_text("text")
    with pytest.raises(UserError, match=r"30 of 60 .* and 20 more") as error:
        read(root)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match='class "cat" has 0 readable'):
        read(root, skip_broken=True)


def test_pictures_are_checked_once_until_they_change(folder, monkeypatch):
    from vit_jax_tricks.data import decode

    root = folder(count=4)
    checked = []
    real = decode.check
    monkeypatch.setattr(decode, "check", lambda d: (checked.append(len(d)), real(d)))
    read(root)
    assert len(checked) == 8
    read(root)
    assert len(checked) == 8
    victim = root / "dog" / "02.jpg"
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"dog/02\.jpg"):
        read(root)
    assert len(checked) == 9
    with pytest.raises(UserError, match=r"dog/02\.jpg"):
        read(root)  # broken ones are not remembered as good


def test_an_unwritable_cache_does_not_matter(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(read(folder(count=4)).train) > 0


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        build(f"folder:{tmp_path / 'nowhere'}")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "cats.zip").write_text("")
    with pytest.raises(UserError, match=r"cats.zip is a file"):
        build(f"folder:{tmp_path / 'cats.zip'}")


def test_no_class_folders(tmp_path, picture):
    with pytest.raises(UserError, match="0 subfolders and 0 loose pictures"):
        build(f"folder:{tmp_path}")
    picture(0).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="0 subfolders and 1 loose pictures"):
        build(f"folder:{tmp_path}")


def test_one_class_is_no_classification(folder):
    with pytest.raises(UserError, match="at least two classes"):
        read(folder(classes=("cat",)))


def test_empty_class(folder):
    root = folder()
    (root / "unicorn").mkdir()
    with pytest.raises(UserError, match='class "unicorn" has 0 readable'):
        read(root)


def test_class_of_one_picture(folder, picture):
    root = folder()
    (root / "rare").mkdir()
    picture(0).save(root / "rare" / "only.png")
    with pytest.raises(UserError, match='class "rare" has 1 readable'):
        read(root)


def test_train_without_test(folder):
    root = folder("pictures/train")
    with pytest.raises(UserError, match=r"none in test/ or val/"):
        read(root.parent)


def test_classes_that_differ_between_splits(folder):
    root = folder("pictures/train", classes=("cat", "dog", "eel"))
    folder("pictures/test")
    with pytest.raises(UserError, match='"eel" in one split only'):
        read(root.parent)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0])
def test_fraction_outside_its_range(folder, fraction):
    with pytest.raises(UserError, match="test_fraction"):
        read(folder(), test_fraction=fraction)


def test_odd_files_train_like_any_other(folder, picture):
    root = folder(count=6)
    wide = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    PIL.Image.fromarray(wide).save(root / "cat" / "sixteen.png")
    picture(1).convert("CMYK").save(root / "cat" / "cmyk.jpg")
    picture(2).convert("L").save(root / "dog" / "grey.jpg")
    picture(3).convert("RGBA").save(root / "dog" / "alpha.png")
    data = build(f"folder:{root}", image_size=16, train_crop="center")
    with data.train_batches(data.num_train, seed=0) as batches:
        batch = next(batches)
    assert batch["image"].shape == (data.num_train, 16, 16, 3)
    assert batch["image"].dtype == np.uint8

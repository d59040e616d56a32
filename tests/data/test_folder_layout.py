"""How a folder is read: splits of any name, links, odd names, and what is left out."""

import os
import subprocess
import sys

import pytest

from vit_jax_tricks.data import build, folder_scan, picture_file
from vit_jax_tricks.data import folder as folder_source
from vit_jax_tricks.errors import UserError


def read(path, **options):
    options = {"skip_broken": False, "split_seed": 0, "test_fraction": 0.2} | options
    return folder_source.open_folder(str(path), **options)


def paths(source):
    return sorted([*source.train.paths, *source.test.paths])


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("training", "validation"),
        ("train", "Valid"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("TrainImages", "TestImages"),
        ("train", "dev"),
        ("trn", "tst"),
    ],
)
def test_splits_by_any_usual_name(folder, train, held, capsys):
    root = folder(f"pictures/{train}", count=3).parent
    folder(f"pictures/{held}", count=2)
    source = read(root)
    assert source.class_names == ["cat", "dog"]
    assert source.split_given
    assert (len(source.train), len(source.test)) == (6, 4)
    said = capsys.readouterr().out
    assert said == (
        f"folder:{root}: 2 classes, 6 + 4 pictures (train + test); {train}/ and "
        f"{held}/ as given.\n"
    )


def test_test_goes_before_val_and_others_are_named(folder, capsys):
    for part in ("train", "test", "val", "more"):
        root = folder(f"pictures/{part}", count=2).parent
    assert {path.split("/")[0] for path in read(root).test.paths} == {"test"}
    assert (
        "train/ and test/ as given; not read: more/, val/." in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["Train", "train", "test"], "has Train/, train/, so it is unclear"),
        (["train", "test", "testing"], "has test/, testing/, so it is unclear"),
        (["train", "val", "validation"], "has val/, validation/, so it is unclear"),
        (["Train"], "classes in Train/ but none in test/ or val/"),
        (["test", "val"], "has classes in test/, val/ but none in train/"),
        (["", "test"], 'but test/ has a class "cat" too'),
    ],
)
def test_ambiguous_splits_are_refused(folder, tmp_path, folders, said):
    for part in folders:
        folder(f"pictures/{part}", count=2)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "pictures")


def test_splits_without_classes_are_refused(folder):
    with pytest.raises(UserError, match="has test/, train/ without class folders"):
        read(folder(classes=("train", "test")))


def test_classes_with_the_word_of_a_split_stay_classes(folder, capsys):
    """Unless all folders have one, and the same classes inside."""
    root = folder(classes=("bullet_train", "test_tube", "car"))
    for name in ("bullet_train", "test_tube", "car"):
        for inner in ("2024", "2025"):
            (root / name / inner).mkdir()
    assert read(root).class_names == ["bullet_train", "car", "test_tube"]
    os.rename(root / "car", root.parent / "car")
    (root / "test_tube" / "2025").rmdir()
    assert read(root).class_names == ["bullet_train", "test_tube"]
    assert "split here" in capsys.readouterr().out


def test_splits_inside_of_classes_are_said(folder, capsys):
    root = folder()
    for name in ("cat", "dog"):
        for inner in ("Train", "test"):
            (root / name / inner).mkdir()
    read(root)
    said = capsys.readouterr().out
    assert "folders of a split inside classes, as in cat/, read as one." in said


def test_classes_that_differ_in_case_alone_are_said(folder, capsys):
    root = folder(classes=("cat", "Cat", "dog"))
    if len(os.listdir(root)) < 3:
        pytest.skip("this disk takes them for one")
    assert read(root).class_names == ["Cat", "cat", "dog"]
    assert "Cat, cat are read as 2 classes." in capsys.readouterr().out


def test_a_folder_around_the_classes_is_named(folder, tmp_path):
    root = folder("outer/more/pictures")
    with pytest.raises(UserError, match=f"holds 1 subf.*Did you mean folder:{root}"):
        read(tmp_path / "outer")


def test_links_to_themselves_beside_the_classes(folder):
    root = folder()
    (root / "self").symlink_to("self")
    (root / "cat" / "self").symlink_to("self")
    assert read(root).class_names == ["cat", "dog"]


@pytest.mark.parametrize("name", ["test", "Validation", "train"])
def test_a_class_with_the_name_of_a_split_is_said(folder, capsys, name):
    root = folder(classes=("cat", "dog", name))
    assert name in read(root).class_names
    assert f'"{name}" is read as a class' in capsys.readouterr().out


def test_our_own_split_is_said(folder, capsys):
    source = read(folder(), test_fraction=0.25)
    counts = f"{len(source.train)} + {len(source.test)} pictures"
    said = capsys.readouterr().out
    assert counts in said
    assert "split here, 0.25 of it for the test." in said


def test_every_format_is_read_in_any_case(folder, picture):
    root = folder(count=1)
    kinds = {".apng": "PNG", ".mpo": "MPO", ".pfm": "TIFF"}
    for number, suffix in enumerate(picture_file.SUFFIXES):
        kind = kinds.get(suffix) or next(
            kind for kind, known in picture_file.FORMATS.items() if suffix in known
        )
        name = suffix.upper() if number % 2 else suffix
        for place in ("cat", "dog"):
            picture(number).save(root / place / f"x{name}", kind)
    assert len(paths(read(root))) == 2 + 2 * len(picture_file.SUFFIXES)


def test_what_is_left_out_is_counted(folder, capsys):
    root = folder(count=3)
    for name in ("a.txt", "b.TXT", "c.heic", ".DS_Store", "._00.jpg", "README"):
        (root / "cat" / name).write_text("x")
    for place in (root, root / "dog"):
        (place / "@eaDir" / "00.jpg").mkdir(parents=True)
        (place / "@eaDir" / "00.jpg" / "SYNOFILE_THUMB_M.jpg").write_text("x")
    (root / "labels.csv").write_text("x")
    (root / "loose.jpg").write_text("x")
    (root / ".git").mkdir()
    os.mkfifo(root / "dog" / "pipe.jpg")
    assert len(paths(read(root))) == 6
    said = capsys.readouterr().out.splitlines()[1]
    assert said.startswith(f"folder:{root}: left out 3 hidden, 2 ")
    for part in (
        "2 .txt",
        "1 .heic",
        "1 .csv",
        "2 in @eaDir",
        "1 without a known suffix",
        "1 beside the class folders",
        "1 pipe or device",
    ):
        assert part in said


def test_many_kinds_stay_one_line(folder, capsys):
    root = folder()
    for i in range(30):
        (root / "cat" / f"x.a{i}").write_text("x")
    read(root)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert said[1].endswith("and 18 more kinds.")


def test_a_plain_folder_is_one_line(folder, capsys):
    read(folder())
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("target", ["cat", ".", "..", "/"])
def test_links_upwards_end(folder, capsys, target):
    root = folder(count=8)
    (root.parent / "beside.jpg").write_text("x")
    before = paths(read(root))
    (root / "cat" / "link").symlink_to((root / target).resolve())
    capsys.readouterr()
    source = read(root)
    assert paths(source) == before
    assert "left out 1 linked to " in capsys.readouterr().out


def test_each_real_picture_counts_once(folder, tmp_path, capsys):
    root = folder(count=8)
    pool = folder("pool", classes=("x", "y"), count=3)
    (root / "dog" / "again.jpg").symlink_to(root / "cat" / "00.jpg")
    (root / "cat" / "first").symlink_to(pool / "x")
    (root / "cat" / "twice").symlink_to(pool / "x")
    (root / "cat" / "one.jpg").symlink_to(pool / "y" / "00.jpg")
    (root / "eel").symlink_to(pool / "y")
    source = read(root)
    assert source.class_names == ["cat", "dog", "eel"]
    every = paths(source)
    real = [os.path.realpath(root / path) for path in every]
    assert len(set(real)) == len(real) == 16 + 3 + 3
    assert "dog/again.jpg" not in every
    assert {"cat/first/00.jpg", "cat/one.jpg", "eel/01.jpg"} <= set(every)
    assert "left out 3 linked to what is read already." in capsys.readouterr().out


def test_links_between_given_splits_stay_on_one_side(folder):
    root = folder("pictures/train", count=4).parent
    folder("pictures/test", count=2)
    for i in range(4):
        (root / "test" / "cat" / f"x{i}.jpg").symlink_to(
            root / "train" / "cat" / f"{i:02}.jpg"
        )
    source = read(root)
    assert (len(source.train), len(source.test)) == (8, 4)


def test_a_split_that_is_a_link_to_the_other_is_refused(folder):
    root = folder("pictures/train", count=4).parent
    (root / "test").symlink_to(root / "train")
    with pytest.raises(UserError, match=r'"cat" has 0 .*Left out were .* linked to'):
        read(root)


def test_unreadable_folders_are_said(folder, monkeypatch, capsys):
    root = folder()
    (root / "cat" / "secret").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(folder_scan.os, "scandir", scandir)
    read(root)
    assert (
        "left out 1 unreadable folder cat/secret (Permission denied)."
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("what", ["file", "class", "root"])
def test_names_that_are_no_utf8(folder, what, capsys):
    root = os.fsencode(folder(count=4))
    if what == "file":
        os.rename(root + b"/cat/00.jpg", root + b"/cat/caf\xe9.jpg")
        open(root + b"/dog/n\xe9.jpg", "wb").close()
    elif what == "class":
        os.rename(root + b"/cat", root + b"/caf\xe9")
    else:
        os.rename(root, root + b"\xe9")
        root += b"\xe9"
    name = f"folder:{os.fsdecode(root)}"
    if what == "file":
        with pytest.raises(UserError, match=r"dog/n.*\.jpg \(empty file\)"):
            build(name, image_size=8)
    data = build(name, image_size=8, skip_broken=what == "file")
    assert data.num_train + data.num_test == 8
    with data.train_batches(2, seed=0) as batches:
        assert next(batches)["image"].shape == (2, 8, 8, 3)
    if what == "class":
        assert data.class_names == ["caf\\udce9", "dog"]  # escaped, to be shown
    again = build(name, image_size=8, skip_broken=what == "file")
    assert again.train.paths == data.train.paths
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    program = (
        f"from vit_jax_tricks.data import build; build({name!r}, skip_broken=True)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_split_of_plain_names_is_the_same_as_ever():
    """A change would put test pictures of earlier runs into training."""
    files = {"a": [f"a/{i}é.jpg" for i in range(9)]}
    train, test = folder_source.split(files, 0, 0.3)
    assert test == {"a": [f"a/{i}é.jpg" for i in (2, 3, 4, 6, 7)]}
    assert sorted(train["a"] + test["a"]) == files["a"]

"""Samples are drawn over all classes, the same for a seed, whatever order data has."""

import collections

import numpy as np
import PIL.Image
import pytest

from vit_jax_tricks import data
from vit_jax_tricks.data.folder import FileRecords
from vit_jax_tricks.data.sample import draw, labels_of
from vit_jax_tricks.data.source import Subset


SIZES = {"a": 40, "b": 4, "c": 1, "d": 15}
LABELS = np.repeat(np.arange(4), list(SIZES.values()))


class Unread(collections.abc.Sequence):
    """Labels that count how many of them are read."""

    def __init__(self, labels):
        self.labels, self.read = labels, 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.read += 1
        return int(self.labels[index])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both splits ordered by class; the grey of a picture is its class."""
    root = tmp_path_factory.mktemp("by_class")
    for split in ("train", "test"):
        for label, (name, count) in enumerate(SIZES.items()):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((6, 6, 3), 60 * label, np.uint8)
                PIL.Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("count", range(1, 61))
def test_every_class_and_every_example_once(count):
    """Sainte-Laguë by hand: seats one by one to the greatest n_c / (2 s_c + 1)."""
    sample = draw(LABELS, count, num_classes=4)
    assert len(set(sample.rows.tolist())) == len(sample) == count
    np.testing.assert_array_equal(LABELS[sample.rows], sample.labels)
    seats = np.minimum(count // 4, 1) * np.ones(4, int)
    while count >= 4 and seats.sum() < count:
        seats[np.argmax(np.bincount(LABELS) / (2 * seats + 1))] += 1
    if count >= 4:
        np.testing.assert_array_equal(np.bincount(sample.labels, minlength=4), seats)


def test_fewer_than_the_classes_are_drawn_from_all_of_them():
    labels = np.repeat(np.arange(100), 5)
    first = {draw(labels, 1, num_classes=100, seed=s).labels[0] for s in range(200)}
    assert len(first) > 60  # 87 of 100 are expected
    sample = draw(labels, 50, num_classes=100)
    assert f"over {sample.classes} of the 100 classes" in str(sample)


def test_a_seed_decides():
    one, same, other = (draw(LABELS, 12, num_classes=4, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.rows, same.rows)
    assert set(one.rows) != set(other.rows)
    assert (np.diff(one.labels) < 0).any()  # not by class


def test_labels_are_read_only_as_far_as_needed():
    balanced = Unread(np.repeat(np.arange(10), 1000))
    sample = draw(balanced, 64, num_classes=10)
    assert sample.classes == 10
    assert balanced.read < 200
    rare = Unread(np.where(np.arange(5000) == 4321, 1, 0))
    assert 4321 in draw(rare, 8, num_classes=2).rows
    many = Unread(np.arange(10_000) % 1000)
    assert len(draw(many, 64, num_classes=1000)) == 64
    assert many.read < 80  # annotations that are checked read some too


def test_what_it_says():
    assert str(draw(LABELS, 60, num_classes=4)) == "all 60 test images"
    assert "all 60 test images (99 were asked for)" in str(
        draw(LABELS, 99, num_classes=4)
    )
    text = str(draw(LABELS, 9, num_classes=4, seed=5, split="train"))
    assert text == "9 images of 60 in train, sampled over all 4 classes, seed 5"
    # A class without an example in the split is not hidden.
    assert "over 4 of the 5 classes" in str(draw(LABELS, 9, num_classes=5))


def test_known_labels_cost_no_reading(tmp_path):
    files = FileRecords(tmp_path, ["no", "such", "file"], np.array([2, 0, 1]))
    assert labels_of(files).tolist() == [2, 0, 1]
    assert labels_of(Subset(files, np.array([2, 0]))).tolist() == [1, 2]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_of_a_folder_by_class(folder, split, in_memory):
    source = data.build(
        f"folder:{folder}", image_size=6, train_crop="whole", in_memory=in_memory
    )
    sample = source.sample(22, split)
    with source.sample_batches(sample, 8) as batches:
        parts = list(batches)
    assert [len(part["label"]) for part in parts] == [8, 8, 6]
    assert all("mask" not in part and "box" not in part for part in parts)
    joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    np.testing.assert_array_equal(joined["index"], sample.rows)
    np.testing.assert_array_equal(joined["label"], sample.labels)
    np.testing.assert_array_equal(joined["image"][:, 0, 0, 0], 60 * joined["label"])
    assert sample.classes == 4


def test_some_examples_of_tfds(data_dir):
    """Labels of records are read; `examples` leaves some of the split."""
    source = data.build("digits", data_dir=data_dir, examples=200, in_memory=False)
    sample = source.sample(50, "train")
    assert (sample.total, len(sample), sample.classes) == (200, 50, 10)
    with source.sample_batches(sample, 50) as batches:
        (batch,) = batches
    np.testing.assert_array_equal(batch["label"], sample.labels)
    read = [source.train[int(row)][1] for row in sample.rows]
    np.testing.assert_array_equal(read, sample.labels)

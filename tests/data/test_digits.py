"""The digits are scikit-learn's, split by class without overlap."""

import numpy as np
import sklearn.datasets

from vit_jax_tricks.data import build, digits


def test_the_split_covers_everything_once_and_is_stratified():
    train, test = digits.split()["train"], digits.split()["test"]
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(1797))
    _, labels = digits.glyphs()
    everyone = np.bincount(labels)
    share = np.bincount(labels[test]) / everyone
    assert np.abs(share - 0.2).max() < 0.5 / everyone.min()


def test_records_are_the_original_digits(data_dir):
    data = build("digits", data_dir=data_dir)
    assert (data.num_train, data.num_test) == (1438, 359)
    assert data.image_shape == (8, 8, 1)
    assert data.class_names[3] == "three"
    with data.test_batches(359) as batches:
        batch = next(batches)
    original = sklearn.datasets.load_digits()
    expected = {
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(original.images, original.target, strict=True)
    }
    seen = {
        (image.tobytes(), int(label))
        for image, label in zip(batch["image"], batch["label"], strict=True)
    }
    assert seen <= expected
    assert len(seen) > 350

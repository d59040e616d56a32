"""Scenes are a function of their number, readable by their mask, and well separated."""

import zlib

import cv2
import numpy as np
import pytest

from vit_jax_tricks.data import digit_scenes, digits, scene_art, tfds_source
from vit_jax_tricks.data.digit_scenes import CONFIGS, SceneConfig, scene


TINY = SceneConfig(name="tiny", size=32, train=40, test=20)
EASY = scene_art.Difficulty()


@pytest.fixture(scope="module")
def tiny(data_dir):
    return tfds_source.digit_scenes(TINY, data_dir, "train", "test")


def test_a_scene_depends_on_its_number_alone():
    first = scene(7, "train", 64, EASY)
    scene(8, "train", 64, EASY)
    again = scene(7, "train", 64, EASY)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.caption == again.caption
    other = scene(7, "test", 64, EASY)
    assert (first.image != other.image).mean() > 0.5


def test_prepared_records_hold_the_scenes(tiny):
    drawn = {
        scene(i, "train", 32, TINY.difficulty).image.tobytes(): i for i in range(40)
    }
    numbers = []
    for i in range(len(tiny.train)):
        record = tiny.train.data[i]
        pixels = cv2.imdecode(np.frombuffer(record["image"], np.uint8), 1)[..., ::-1]
        number = drawn[pixels.tobytes()]
        expected = scene(number, "train", 32, TINY.difficulty)
        mask = cv2.imdecode(np.frombuffer(record["mask"], np.uint8), -1)
        np.testing.assert_array_equal(mask, expected.mask)
        assert record["label"] == expected.label == number % 10
        assert record["caption"].decode() == expected.caption
        numbers.append(number)
    assert sorted(numbers) == list(range(40))


def test_train_and_test_share_no_digit():
    train, test = digits.split()["train"], digits.split()["test"]
    assert not set(train) & set(test)


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_use_only_digits_of_their_split(split, monkeypatch):
    fields = scene_art.fields()
    used = set()

    class Watched:
        def __getitem__(self, row):
            used.add(int(row))
            return fields[row]

    monkeypatch.setattr(scene_art, "fields", Watched)
    for index in range(60):
        scene(index, split, 32, EASY)
    assert len(used) > 50
    assert used <= set(digits.split()[split].tolist())


def test_photo_regions_share_no_column():
    for (_, train), (_, test) in zip(
        scene_art.photographs("train"), scene_art.photographs("test"), strict=True
    ):
        assert train.shape[1] + test.shape[1] <= 640 - 16
    from sklearn.datasets import load_sample_image

    china = load_sample_image("china.jpg")
    np.testing.assert_array_equal(scene_art.photographs("train")[0][1], china[:, :384])
    np.testing.assert_array_equal(scene_art.photographs("test")[0][1], china[:, 400:])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_mask_marks_whole_visible_ink(config):
    for index in range(20):
        drawn = scene(index, "train", config.size, config.difficulty)
        assert drawn.mask.max() == 1
        rows, _ = np.nonzero(drawn.mask)
        height = (rows.max() - rows.min() + 1) / config.size
        assert 0.75 * config.difficulty.scale[0] < height
        edge = drawn.mask.copy()
        edge[1:-1, 1:-1] = 0
        assert edge.sum() < 0.02 * drawn.mask.sum()
        ink = scene_art.luminance(drawn.image[drawn.mask == 1].mean(0))
        near = cv2.dilate(drawn.mask, np.ones((5, 5), np.uint8)) - drawn.mask
        around = scene_art.luminance(drawn.image[near == 1].mean(0))
        assert abs(ink - around) > 12
        assert digits.WORDS[drawn.label] in drawn.caption


def test_a_fragment_is_at_most_half_a_digit():
    heaviest = scene_art.fields().clip(0).sum((1, 2)).max()
    for seed in range(100):
        ink = scene_art.piece(np.random.default_rng(seed), "train").clip(0).sum()
        assert 0 < ink < 0.6 * heaviest


def test_classes_are_balanced():
    for config in CONFIGS:
        assert config.train % 10 == config.test % 10 == 0


def test_new_difficulty_means_a_new_version():
    """Old records would stay in use: raise VERSION together with this checksum."""
    settings = [(c.name, c.size, c.train, c.test, c.difficulty) for c in CONFIGS]
    text = f"{digit_scenes.SEED} {settings}"
    assert (digit_scenes.VERSION, zlib.crc32(text.encode())) == ("1.0.0", 3752052089)

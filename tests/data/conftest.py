"""Small prepared data sets and folders of pictures, without network or home."""

import numpy as np
import PIL.Image
import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """One TFDS folder for all tests that do not damage it."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keeps the record of checked pictures out of the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def picture():
    """A function of a seed: a smooth random RGB picture, 48x40."""

    def draw(seed, size=(48, 40)):
        rng = np.random.default_rng(seed)
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(small)
        return image.resize(size[::-1], PIL.Image.Resampling.BICUBIC)

    return draw


@pytest.fixture
def folder(tmp_path, picture):
    """A function that writes PATH/class/NN.suffix for the named classes."""

    def write(root="pictures", classes=("cat", "dog"), count=10, suffix="jpg"):
        for number, name in enumerate(classes):
            place = tmp_path / root / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(100 * number + i).save(place / f"{i:02}.{suffix}")
        return tmp_path / root

    return write

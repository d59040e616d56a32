"""`config.data`: which pictures are shown, in which order, and which part of each."""

import hashlib
import io
import multiprocessing
import shutil

import numpy as np
import PIL.Image
import pytest
import reference


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def loose(folder, tmp_path_factory):
    """The training pictures without folders for the two splits."""
    return shutil.copytree(folder / "train", tmp_path_factory.mktemp("loose") / "all")


def opened(folder, **changes):
    """The data of an experiment on the pictures, 20 x 20 pixels each."""
    given = {f"data__{key}": value for key, value in changes.items()}
    options = {"data__image_size": 20, "batch_size": 8} | given
    side = options["data__image_size"] or 20
    model = reference.SMALL | {"patch_size": side // 2}
    return reference.build(folder, model=model, **options)


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def paths(root):
    """Pictures in the order in which they are numbered: by name."""
    return sorted(
        root.rglob("*.png"), key=lambda path: path.relative_to(root).as_posix()
    )


def first(batches, count=1):
    with batches:
        return [next(batches) for _ in range(count)]


def shows(batch, files, view=lambda image: image):
    """Asserts that a batch has the pictures of its index, as a view shows them."""
    for image, place in zip(batch["image"], batch["index"], strict=True):
        np.testing.assert_array_equal(image, view(pixels(files[place % len(files)])))


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.2), (0, 0.5), (3, 0.2)])
def test_the_split_is_that_of_its_hash(seed, fraction, loose):
    """A file is for testing where its hash is under that fraction of 2^64."""

    def rank(path):
        name = f"{seed}/{path.relative_to(loose).as_posix()}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    data = opened(loose, split_seed=seed, test_fraction=fraction).task.data
    want = [path for path in paths(loose) if rank(path) < fraction]
    assert (data.num_train, data.num_test) == (48 - len(want), len(want))
    (batch,) = first(data.test_batches(48))
    real = batch["mask"] > 0
    assert real.sum() == len(want)
    for image, path in zip(batch["image"][real], want, strict=True):
        np.testing.assert_array_equal(image, pixels(path))


def test_image_size_and_resize(folder):
    """pil_bicubic is Pillow's own; area is the mean of whole blocks."""
    files = paths(folder / "train")
    x = opened(folder, image_size=16, resize="pil_bicubic")
    (batch,) = first(x.train_batches())

    def view(image):
        smaller = PIL.Image.fromarray(image).resize(
            (16, 16), PIL.Image.Resampling.BICUBIC
        )
        return np.asarray(smaller)

    shows(batch, files, view)
    x = opened(folder, image_size=10, resize="area")
    (batch,) = first(x.train_batches())
    for image, place in zip(batch["image"], batch["index"], strict=True):
        blocks = pixels(files[place]).reshape(10, 2, 10, 2, 3).mean((1, 3))
        assert np.abs(image - blocks).max() <= 0.5


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_the_central_part_is_crop_pct_of_the_side(crop, folder):
    """16 of 20 pixels at 0.8: no pixel is resampled."""
    x = opened(folder, image_size=16, train_crop=crop, crop_pct=0.8)
    (batch,) = first(x.train_batches())
    shows(batch, paths(folder / "train"), lambda image: image[2:18, 2:18])
    (batch,) = first(x.task.data.test_batches(21))
    shows(batch, paths(folder / "test"), lambda image: image[2:18, 2:18])


@pytest.mark.parametrize(("scale", "ratio"), [(0.5, 0.5), (0.25, 1.0), (0.5, 2.0)])
def test_random_crops_are_as_large_and_wide_as_the_keys_say(scale, ratio, loose):
    """The crop is resized to 20 x 20; black left and top, its share of red and green
    tells how wide and how high it was."""
    height, width = (scale / ratio) ** 0.5 * 20, (scale * ratio) ** 0.5 * 20
    for path in paths(loose):
        y, x = np.mgrid[:20, :20]
        ramp = np.stack([12 * y, 12 * x, 0 * x], -1).astype(np.uint8)
        PIL.Image.fromarray(ramp).save(path)
    x = opened(
        loose,
        train_crop="random_resized",
        crop_scale=(scale, scale),
        crop_ratio=(ratio, ratio),
    )
    (batch,) = first(x.train_batches())
    slopes = batch["image"].astype(np.float32)
    down = (slopes[:, 15, 10, 0] - slopes[:, 5, 10, 0]) / 10
    right = (slopes[:, 10, 15, 1] - slopes[:, 10, 5, 1]) / 10
    np.testing.assert_allclose(down, 12 * height / 20, atol=0.2)
    np.testing.assert_allclose(right, 12 * width / 20, atol=0.2)


def test_fewer_examples_are_a_fixed_choice(folder):
    x = opened(folder, examples=10)
    rows = np.sort(np.random.default_rng(0).permutation(48)[:10])
    assert x.task.data.num_train == 10
    files = paths(folder / "train")
    (batch,) = first(x.train_batches())
    shows(batch, [files[row] for row in rows])
    order = np.random.default_rng((0, 0)).permutation(10)
    np.testing.assert_array_equal(batch["index"], order[:8])


@pytest.mark.parametrize("crop", ["whole", "random_resized"])
def test_repeats_come_in_a_row(crop, folder):
    """In memory and as a stream: each example four times, its copies numbered."""
    x = opened(folder, repeats=4, train_crop=crop)
    (batch,) = first(x.train_batches())
    copies, places = np.divmod(batch["index"].reshape(2, 4), 48)
    np.testing.assert_array_equal(copies, [np.arange(4)] * 2)
    assert (places == places[:, :1]).all()
    assert len(np.unique(places)) == 2


def test_broken_pictures_are_left_out_where_that_is_wanted(loose, tmp_path):
    root = shutil.copytree(loose, tmp_path / "broken")
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    PIL.Image.fromarray(noise).save(stream, "png")
    (root / "class0" / "zz.png").write_bytes(stream.getvalue()[:600])
    with pytest.raises(Exception, match=r"zz\.png"):
        opened(root)
    data = opened(root, skip_broken=True).task.data
    assert data.num_train + data.num_test == 48


@pytest.mark.slow
def test_splits_and_place_of_a_tfds_data_set(home):
    """`train_split`, `test_split` and `data_dir`, on the digits."""
    x = reference.build(
        "",
        data__name="digits",
        data__image_size=None,
        data__train_split="train[:30%]",
        data__test_split="train[30%:]",
        data__data_dir=str(home / "elsewhere"),
        model=reference.SMALL | {"patch_size": 4},
    )
    assert x.task.data.image_shape == (8, 8, 1)
    assert x.task.data.num_train == round(0.3 * 1438)
    assert x.task.data.num_train + x.task.data.num_test == 1438
    assert list((home / "elsewhere").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_so_many_processes_decode(workers, folder):
    x = opened(folder, train_crop="random_resized", workers=workers)
    before = set(multiprocessing.active_children())
    with x.train_batches() as batches:
        next(batches)
        children = set(multiprocessing.active_children()) - before
    assert len(children) >= workers
    assert bool(children) == bool(workers)

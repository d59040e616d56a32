"""Batches: exact epochs, resumption at any step, each test example counted once."""

import gc
import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vit_jax_tricks.data import build
from vit_jax_tricks.errors import UserError


@pytest.fixture(scope="module")
def digits(data_dir):
    return build("digits", data_dir=data_dir)


@pytest.fixture
def streamed(folder):
    """A folder read through Grain with random crops."""
    return build(f"folder:{folder(count=12)}", image_size=16)


@pytest.fixture(params=["digits", "streamed"])
def data(request):
    """Both ways to read: from memory and through Grain."""
    return request.getfixturevalue(request.param)


def take(data, count, batch_size=8, seed=3, start_step=0):
    with data.train_batches(batch_size, seed, start_step) as batches:
        return list(itertools.islice(batches, count))


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_promised_types(data):
    (batch,) = take(data, 1)
    assert batch.keys() == {"image", "label", "index"}
    assert batch["image"].shape == (8, *data.image_shape)
    assert batch["image"].dtype == np.uint8
    for key in ("label", "index"):
        assert batch[key].shape == (8,)
        assert batch[key].dtype == np.int32


def test_boxes_only_on_request(data):
    """They come with more arrays too, and change nothing else."""
    (plain,) = take(data, 1)
    with data.train_batches(8, 3, boxes=True) as batches:
        boxed = next(batches)
    with data.train_batches(8, 3, more=lambda batch: {"keys": len(batch)}) as batches:
        assert next(batches)["keys"] == 3
    box = boxed.pop("box")
    assert box.shape == (8, 4)
    assert box.dtype == np.float32
    assert ((box >= 0) & (box <= 1)).all()
    assert_same([plain], [boxed])


def test_a_run_resumes_where_it_was(data):
    whole = take(data, 7)
    assert_same(whole[4:], take(data, 3, start_step=4))
    assert_same(whole, take(data, 7))


def test_another_seed_is_another_stream(data):
    first, second = take(data, 1), take(data, 1, seed=4)
    assert (first[0]["index"] != second[0]["index"]).any()


@pytest.mark.parametrize("batch_size", [7, 10])
def test_every_epoch_is_a_fresh_permutation(data, batch_size):
    count = data.num_train
    steps = -(-3 * count // batch_size)
    index = np.concatenate([b["index"] for b in take(data, steps, batch_size)])
    epochs = index[: 3 * count].reshape(3, count)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_labels_belong_to_their_pictures(streamed):
    labels = {}
    for batch in take(streamed, 12):
        for index, label in zip(batch["index"], batch["label"], strict=True):
            assert labels.setdefault(int(index), int(label)) == label
    assert set(labels.values()) == {0, 1}


def test_random_crops_differ_between_epochs(streamed):
    seen = {}
    for batch in take(streamed, 12):
        for index, image in zip(batch["index"], batch["image"], strict=True):
            seen.setdefault(int(index), set()).add(image.tobytes())
    assert all(len(crops) > 1 for crops in seen.values())


def test_an_epoch_may_end_inside_a_batch(digits):
    batch = take(digits, 1, batch_size=1000, start_step=1)[0]
    assert len(np.unique(batch["index"])) < 1000


@pytest.mark.parametrize("batch_size", [1, 7, 64, 360])
def test_evaluation_counts_every_example_once(data, batch_size):
    with data.test_batches(batch_size) as batches:
        batches = list(batches)
    for batch in batches:
        assert batch["mask"].dtype == np.float32
        assert all(len(value) == batch_size for value in batch.values())
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    real = joined["mask"] == 1
    assert joined["mask"].sum() == real.sum() == data.num_test
    np.testing.assert_array_equal(joined["index"][real], np.arange(data.num_test))
    assert not joined["image"][~real].any()
    with data.test_batches(data.num_test) as whole:
        (reference,) = whole
    for key in ("label", "image"):
        np.testing.assert_array_equal(joined[key][real], reference[key])


@pytest.mark.parametrize("size", [8, 12, 20])
def test_fixed_size_data_is_resized_once(data_dir, size):
    data = build("digits", data_dir=data_dir, image_size=size)
    assert data.in_memory
    assert take(data, 1)[0]["image"].shape == (8, size, size, 1)


def test_training_examples_as_evaluation_sees_them(data):
    with data.test_batches(7, split="train") as batches:
        seen = list(batches)
    index = np.concatenate([batch["index"][batch["mask"] == 1] for batch in seen])
    np.testing.assert_array_equal(index, np.arange(data.num_train))


def test_both_readers_show_the_same_test_set(data_dir, digits):
    stream = build("digits", data_dir=data_dir, in_memory=False)
    assert not stream.in_memory
    with stream.test_batches(100) as one, digits.test_batches(100) as other:
        assert_same(list(one), list(other))
    rows = take(stream, 1)[0]
    with build("digits", data_dir=data_dir).train_batches(8, 3) as batches:
        memory = {int(i): image for i, image in every(batches, digits.num_train)}
    for index, image in zip(rows["index"], rows["image"], strict=True):
        np.testing.assert_array_equal(image, memory[int(index)])


def every(batches, count):
    for batch in itertools.islice(batches, -(-count // 8)):
        yield from zip(batch["index"], batch["image"], strict=True)


def test_fewer_examples(data_dir, digits):
    few = build("digits", data_dir=data_dir, examples=100)
    assert (few.num_train, few.num_test) == (100, digits.num_test)
    index = np.concatenate([b["index"] for b in take(few, 25)])
    np.testing.assert_array_equal(np.bincount(index), 2)


def test_worker_processes_give_the_same_stream(folder):
    root = folder(count=12)
    runs = [
        take(build(f"folder:{root}", image_size=16, workers=workers), 5, start_step=2)
        for workers in (0, 1, 2)
    ]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing(digits, batch_size):
    for batches in (
        lambda: digits.train_batches(batch_size, seed=0),
        lambda: digits.test_batches(batch_size),
    ):
        with pytest.raises(UserError, match=f"batch_size={batch_size}"):
            batches()


def test_seeds_are_small_and_not_negative(digits):
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"seed={seed}"):
            digits.train_batches(8, seed)


def test_a_batch_larger_than_the_training_set(digits):
    with pytest.raises(UserError, match="larger than the 1438 training examples"):
        digits.train_batches(1439, seed=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digit", 'Did you mean "digits"'),
        ("digit_scene", 'Did you mean "digit_scenes"'),
        ("digit_scenes/65", 'Did you mean "digit_scenes/64"'),
        ("tfd:mnist", "Expected: digits.*folder:PATH or tfds:NAME"),
        ("folder:", "Expected: digits.*folder:PATH or tfds:NAME"),
        ("", "Expected: digits"),
    ],
)
def test_unknown_names(name, said):
    with pytest.raises(UserError, match=said):
        build(name)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("digits", {"skip_broken": True}),
        ("digits", {"split_seed": 1}),
        ("digits", {"test_fraction": 0.3}),
        ("digits", {"crop_scale": (0.5, 1.0)}),
        ("digits", {"crop_ratio": (1.0, 1.0)}),
        ("digits", {"crop_pct": 1.0}),
        ("digits", {"workers": 2}),
        ("digits", {"resize": "pil_bicubic"}),
        ("folder", {"train_split": "train[:50%]"}),
        ("folder", {"test_split": "val"}),
        ("folder", {"data_dir": "somewhere"}),
        ("given", {"split_seed": 1}),
        ("given", {"test_fraction": 0.3}),
    ],
)
def test_arguments_without_effect_are_refused(name, option, data_dir, folder):
    options = {"data_dir": data_dir} if name == "digits" else {}
    if name == "folder":
        name = f"folder:{folder()}"
    if name == "given":
        root = folder("pictures/train")
        folder("pictures/test")
        name = f"folder:{root.parent}"
    (key,) = option
    with pytest.raises(UserError, match=rf"config\.data\.{key}=.* has no effect"):
        build(name, **options | option)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"train_crop": "centre"}, 'Did you mean "center"'),
        ({"train_crop": "center", "crop_pct": 0.0}, "crop_pct=0.0"),
        ({"train_crop": "random_resized", "crop_scale": (1.0, 0.1)}, "crop_scale="),
        ({"train_crop": "random_resized", "crop_ratio": (0.0, 1.0)}, "crop_ratio="),
        ({"image_size": 9, "resize": "bicubic"}, 'Did you mean "pil_bicubic"'),
        ({"examples": 0}, "examples=0"),
        ({"examples": 5000}, "examples=5000; expected 1 to 1438"),
        ({"in_memory": False, "workers": -1}, "workers=-1"),
        ({"in_memory": True, "train_crop": "random_resized"}, "in_memory=True"),
    ],
)
def test_wrong_values_are_named(option, said, data_dir):
    with pytest.raises(UserError, match=said):
        build("digits", data_dir=data_dir, **option)


def test_iterators_end_their_threads(data):
    before = threading.active_count()
    batches = data.train_batches(8, seed=0)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    dropped = data.train_batches(8, seed=0)
    next(dropped)
    del dropped
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)  # Grain's own threads end a moment later
    assert threading.active_count() <= before


def test_an_error_while_reading_reaches_the_loop(folder):
    root = folder(count=12)
    data = build(f"folder:{root}", image_size=16)
    for path in (root / "cat").iterdir():
        path.unlink()
    with data.train_batches(8, seed=0) as batches:
        with pytest.raises(UserError, match=r"cat/.*jpg cannot be read \(No such file"):
            list(itertools.islice(batches, 20))
        assert next(batches, None) is None


def test_leaving_in_the_middle_is_silent(data_dir):
    program = (
        "from vit_jax_tricks.data import build\n"
        f"for memory in (True, False):\n"
        f"    data = build('digits', data_dir={str(data_dir)!r}, in_memory=memory)\n"
        "    batches = data.train_batches(16, seed=0)\n"
        "    next(batches)\n"
        "    test = iter(data.test_batches(16))\n"
        "    next(test)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_import_is_quick_and_light():
    program = (
        "import sys, vit_jax_tricks.data\n"
        "heavy = {'tensorflow', 'torch', 'sklearn', 'tensorflow_datasets', 'grain'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

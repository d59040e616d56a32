"""`tfds:NAME` reads what was prepared as ArrayRecord and explains the rest."""

import json
import multiprocessing
import pickle

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from vit_jax_tricks.data import build, tfds_source
from vit_jax_tricks.data.digit_scenes import DigitScenes, SceneConfig
from vit_jax_tricks.data.prepare import prepare
from vit_jax_tricks.errors import UserError


class Spots(tfds.core.GeneratorBasedBuilder):
    """Bright or dark pictures of different sizes, as JPEG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(encoding_format="jpeg"),
                    "kind": tfds.features.ClassLabel(names=["dark", "bright"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "val": self._generate_examples(8)}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.full((20 + i, 30, 3), 40 + 160 * (i % 2), np.uint8)
            yield i, {"photo": PIL.Image.fromarray(image), "kind": i % 2}


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    root = tmp_path_factory.mktemp("spots")
    prepare(lambda: Spots(data_dir=root, file_format="array_record"))
    return root


def test_keys_and_classes_are_found_in_the_features(spots):
    data = build(
        "tfds:spots", data_dir=spots, image_size=8, test_split="val", in_memory=False
    )
    assert data.class_names == ["dark", "bright"]
    assert (data.num_train, data.num_test) == (20, 8)
    with data.train_batches(10, seed=0) as batches:
        batch = next(batches)
    bright = batch["image"].mean((1, 2, 3)) > 120
    np.testing.assert_array_equal(bright, batch["label"] == 1)


def test_parts_of_splits(spots):
    data = build(
        "tfds:spots",
        data_dir=spots,
        train_split="train[:90%]",
        test_split="train[90%:]",
    )
    assert (data.num_train, data.num_test) == (18, 2)


@pytest.mark.parametrize(
    ("split", "said"),
    [("test", "is not a split of spots"), ("train[:1%]", "not a"), ("tr[", "not a")],
)
def test_a_wrong_split_is_named_with_those_there(spots, split, said):
    with pytest.raises(UserError, match=rf"test_split.*{said}.*val \(8\)"):
        build("tfds:spots", data_dir=spots, test_split=split)


def test_records_survive_pickling_for_worker_processes(spots):
    source = tfds_source.named("spots", spots, "train", "val")
    copy = pickle.loads(pickle.dumps(source.train))
    assert copy[3] == source.train[3]


def test_an_unprepared_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(UserError) as error:
        build("tfds:cifar10", data_dir=tmp_path)
    assert "tfds:cifar10 is not prepared" in str(error.value)
    assert "tfds.builder('cifar10', data_dir=" in str(error.value)
    assert "file_format='array_record').download_and_prepare()" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_set_gets_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match='Did you mean "cifar10"'):
        build("tfds:cifra10", data_dir=tmp_path)


def test_records_that_need_tensorflow_are_refused(spots, tmp_path):
    import shutil

    shutil.copytree(spots / "spots", tmp_path / "spots")
    info = tmp_path / "spots" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text()) | {"fileFormat": "tfrecord"}
    info.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"stored as tfrecord.*array_record"):
        build("tfds:spots", data_dir=tmp_path, test_split="val")


def test_a_set_with_masks_reads_its_image(data_dir):
    config = SceneConfig(name="mini", size=16, train=10, test=10)
    prepare(
        lambda: DigitScenes(
            config=config, data_dir=data_dir, file_format="array_record"
        )
    )
    data = build("tfds:digit_scenes/mini", data_dir=data_dir)
    assert data.image_shape == (16, 16, 3)


def make(root, ready):
    """Prepares in a process of its own."""
    ready.wait()
    config = SceneConfig(name="race", size=16, train=50, test=10)
    builder = prepare(
        lambda: DigitScenes(config=config, data_dir=root, file_format="array_record")
    )
    assert builder.info.splits["train"].num_examples == 50


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    workers = [context.Process(target=make, args=(tmp_path, ready)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    left = [p.name for p in (tmp_path / "digit_scenes/race").iterdir()]
    assert sorted(left) == [".1.0.0.lock", "1.0.0"]


def test_what_a_killed_run_left_is_swept(tmp_path):
    config = SceneConfig(name="swept", size=16, train=10, test=10)
    old = tmp_path / "digit_scenes/swept/incomplete.ABCDEF_1.0.0"
    old.mkdir(parents=True)
    (old / "part").write_text("half")
    prepare(
        lambda: DigitScenes(
            config=config, data_dir=tmp_path, file_format="array_record"
        )
    )
    assert not old.exists()


def test_a_failure_half_way_leaves_nothing_that_looks_ready(tmp_path, monkeypatch):
    from vit_jax_tricks.data import digit_scenes

    config = SceneConfig(name="dies", size=16, train=10, test=10)
    real = digit_scenes.scene

    def dies(index, *args):
        if index == 7:
            raise KeyboardInterrupt
        return real(index, *args)

    def builder():
        return DigitScenes(config=config, data_dir=tmp_path, file_format="array_record")

    monkeypatch.setattr(digit_scenes, "scene", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(builder)
    monkeypatch.setattr(digit_scenes, "scene", real)
    assert prepare(builder).info.splits["train"].num_examples == 10


def test_preparing_prints_nothing(tmp_path, capfd):
    config = SceneConfig(name="quiet", size=16, train=10, test=10)
    prepare(
        lambda: DigitScenes(
            config=config, data_dir=tmp_path, file_format="array_record"
        )
    )
    assert capfd.readouterr() == ("", "")


def test_a_data_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"config.data.data_dir: cannot write digits"):
        build("digits", data_dir=tmp_path / "file")

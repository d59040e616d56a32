"""Data sets and packs from elsewhere: nothing in them is run or trusted for a size."""

import json
import shutil
import sys

import PIL.Image
import pytest
import tensorflow_datasets as tfds

from vit_jax_tricks.data import build
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.manifest import (
    FINISHED,
    Manifest,
    PackSpec,
    _checksum,
)
from vit_jax_tricks.data.label_pack.maps import read_map
from vit_jax_tricks.data.prepare import prepare
from vit_jax_tricks.errors import UserError


class Dots(tfds.core.GeneratorBasedBuilder):
    """A few pictures."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["a", "b"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": PIL.Image.new("RGB", (8, 8), (i, 0, 0)), "label": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("dots")
    prepare(lambda: Dots(data_dir=root, file_format="array_record"))
    return root


@pytest.fixture
def dots(prepared, tmp_path):
    """A copy to damage: its data_dir, and the folder of its files."""
    shutil.copytree(prepared / "dots", tmp_path / "dots")
    return tmp_path, tmp_path / "dots" / "1.0.0"


def test_a_sound_copy_is_read(dots):
    data = build("tfds:dots", data_dir=dots[0])
    assert (data.num_train, data.num_test) == (6, 4)


@pytest.mark.parametrize("which", ["image_feature.Image", "class_label_feature"])
def test_features_name_no_foreign_module(dots, which, tmp_path, monkeypatch):
    root, files = dots
    (tmp_path / "evilmod.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass X: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (files / "features.json").read_text()
    own = "tensorflow_datasets.core.features."
    start = text.index(own + which)
    name = text[start : text.index('"', start)]
    (files / "features.json").write_text(text.replace(name, "evilmod.X"))
    with pytest.raises(UserError, match=r"names the class evilmod\.X") as error:
        build("tfds:dots", data_dir=root)
    assert "\n" not in str(error.value)
    assert "evilmod" not in sys.modules
    assert not (tmp_path / "ran").exists()
    (files / "features.json").write_text(text)
    assert build("tfds:dots", data_dir=root).num_train == 6


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", None])
def test_damaged_descriptions_are_one_line(dots, file, text):
    root, files = dots
    if text is None:
        text = (files / file).read_text()[:300]
    (files / file).write_text(text)
    with pytest.raises(UserError, match="tfds:dots under") as error:
        build("tfds:dots", data_dir=root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("kept", [None, 0, 10, 65536, 0.75, -1])
def test_shards_that_are_cut_or_missing(dots, part, kept):
    root, files = dots
    (shard,) = files.glob(f"*{part}*")
    whole = shard.read_bytes()
    if kept is None:
        shard.unlink()
    else:
        kept = int(kept * len(whole)) if isinstance(kept, float) else kept
        shard.write_bytes(whole[:kept])
    with pytest.raises(UserError, match=f"{shard.name} cannot be read") as error:
        build("tfds:dots", data_dir=root)
    assert "\n" not in str(error.value)


def test_a_shard_of_another_split(dots):
    root, files = dots
    (train,), (test,) = files.glob("*train*"), files.glob("*test*")
    shutil.copy(test, train)
    with pytest.raises(UserError, match="holds 4 records instead of 6"):
        build("tfds:dots", data_dir=root)


def header(path, **changes):
    """A finished label pack's header with a right checksum."""
    spec = {
        "teacher": {},
        "preprocessing": {},
        "data": {"name": "x"},
        "class_names": ["a", "b"],
        "files": None,
        "count": 4,
        "grid": [2, 2],
        "top": 1,
        "rest": "mean",
        "shard_size": 4,
    } | changes
    sound = Manifest(
        PackSpec(
            **spec | {k: 1 for k in ("count", "top", "shard_size")} | {"grid": (1, 1)}
        ),
        0,
        ((1, "0"),),
    )
    content = sound._content() | {"spec": spec}
    path.mkdir(exist_ok=True)
    content["checksum"] = _checksum(content)
    (path / FINISHED).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 10**18},
        {"count": -1},
        {"count": 2.5},
        {"grid": [10**6, 10**6]},
        {"grid": [1024, 1024], "top": 10**4},
        {"grid": [2, 2, 2]},
        {"grid": [0, 2]},
        {"top": 10**9},
        {"top": "5"},
        {"shard_size": 0},
    ],
)
def test_sizes_in_a_pack_s_header_are_checked_first(tmp_path, changes):
    header(tmp_path / "pack", **changes)
    with pytest.raises(UserError, match=r"pack\.json is damaged"):
        LabelPack.open(tmp_path / "pack", in_memory=True)


@pytest.mark.parametrize("changes", [{"shard_size": 1}, {}])
def test_a_pack_that_lacks_what_its_header_says(tmp_path, changes):
    header(tmp_path / "pack", **changes)
    with pytest.raises(UserError, match=r"lacks files|is missing"):
        LabelPack.open(tmp_path / "pack", in_memory=True)


def test_a_label_map_that_grows_in_memory(torch, tmp_path):
    huge = torch.zeros(1).expand(2, 10**6, 100, 100)
    torch.save(huge, tmp_path / "map.pt")
    assert (tmp_path / "map.pt").stat().st_size < 10_000
    with pytest.raises(UserError, match="a label map has at most"):
        read_map(tmp_path / "map.pt")

"""Label packs: what goes in comes out, whole or not at all, for its own data alone."""

import json
import os

import jax
import numpy as np
import pytest
import runs

from vit_jax_tricks import data
from vit_jax_tricks.data import label_pack_writer
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack_code import decode, encode
from vit_jax_tricks.data.label_pack_manifest import BEGUN, FINISHED, Spec, names_crc
from vit_jax_tricks.data.label_pack_writer import write_pack
from vit_jax_tricks.errors import UserError


TEACHER = {"name": "x", "weights": "y", "checksum": "z", "form": "dense head"}


def fields(labels, grid=(3, 4), top=5, classes=10, seed=0):
    """Arguments of `encode`, drawn for each example by itself."""
    rng = np.random.default_rng(seed)
    b = len(labels)
    return {
        "labels": np.asarray(labels, np.int32),
        "class_scores": rng.normal(0, 5, (b, top)).astype(np.float32),
        "class_classes": rng.integers(0, classes, (b, top)),
        "token_scores": rng.normal(0, 5, (b, *grid, top)).astype(np.float32),
        "token_classes": rng.integers(0, classes, (b, *grid, top)),
    }


def all_labels(source):
    records = source.whole_train
    return np.array([records[i][1] for i in range(len(records))], np.int32)


def spec_of(source, **changes):
    return Spec(
        **{
            "teacher": TEACHER,
            "preprocessing": {"size": (8, 8), "crop": "whole"},
            "data": {"name": source.name},
            "class_names": tuple(source.class_names),
            "files": names_crc(source.whole_train),
            "count": len(source.whole_train),
            "grid": (3, 4),
            "top": 5,
            "rest": "mean",
            "shard_size": 400,
        }
        | changes
    )


def records_of(source, piece=64):
    """Random records of a data set's examples, the same in any order."""
    labels = all_labels(source)

    def records(part):
        for start in range(part.start, part.stop, piece):
            rows = range(start, min(start + piece, part.stop))
            yield np.concatenate(
                [encode(**fields(labels[i : i + 1], seed=i)) for i in rows]
            )

    return records


@pytest.fixture(scope="module")
def digits(data_dir):
    return data.build("digits", data_dir=data_dir)


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory):
    """A pack that no test changes."""
    path = tmp_path_factory.mktemp("pack") / "digits"
    assert write_pack(path, spec_of(digits), records_of(digits))
    return path


@pytest.fixture
def copy(written, tmp_path):
    return runs.copied(written, tmp_path)


class TestCode:
    @pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 20.0, 1e4])
    def test_scores_within_half_a_step(self, scale):
        given = fields(range(6))
        given["token_scores"] = given["token_scores"] * np.float32(scale)
        found = decode(dict_of(encode(**given)))
        spread = np.ptp(given["token_scores"], axis=(1, 2, 3))[:, None, None, None]
        error = np.abs(found["token_scores"] - given["token_scores"])
        assert (error <= spread / 510 * (1 + 1e-3) + 1e-30).all()

    @pytest.mark.parametrize("spread", [1.0, 10.0, 20.0, 40.0])
    def test_probabilities_within_the_stated_error(self, spread):
        """Of each class and of the better half, with 5 more classes at score 0."""
        given = fields(range(200), seed=3)
        low, high = given["token_scores"].min(), given["token_scores"].max()
        given["token_scores"] = (given["token_scores"] - low) * spread / (high - low)
        found = decode(dict_of(encode(**given)))["token_scores"]

        def probabilities(scores):
            others = np.zeros((*scores.shape[:-1], 5), np.float32)
            return np.asarray(jax.nn.softmax(np.concatenate([scores, others], -1)))

        error = probabilities(np.asarray(found)) - probabilities(given["token_scores"])
        most = np.tanh(spread / 255 / 4) + 1e-6
        assert np.abs(error).max() <= most
        assert np.abs(error).sum(-1).max() / 2 <= most

    def test_the_rest_is_exact(self):
        given = fields([0, 65535], classes=65536)
        given["token_classes"][0, 0, 0, 0] = 65535
        records = encode(**given)
        found = decode(dict_of(records))
        np.testing.assert_array_equal(found["class_scores"], given["class_scores"])
        for name in ("class_classes", "token_classes"):
            np.testing.assert_array_equal(found[name], given[name])
        np.testing.assert_array_equal(records["label"], [0, 65535])

    def test_jit_equals_eager(self):
        rows = dict_of(encode(**fields(range(3))))
        eager, jitted = decode(rows), jax.jit(decode)(rows)
        for name, value in eager.items():
            np.testing.assert_allclose(jitted[name], value, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("name", ["token_scores", "class_scores"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, name, value):
        given = fields(range(2))
        given[name].flat[3] = value
        with pytest.raises(UserError, match="not finite"):
            encode(**given)


def dict_of(records):
    return {n: records[n] for n in records.dtype.names if n != "label"}


class TestReading:
    @pytest.mark.parametrize("in_memory", [None, False])
    def test_round_trip(self, digits, written, in_memory):
        pack = LabelPack.open(written, in_memory=in_memory)
        labels = all_labels(digits)
        index = np.array([1437, 3, 399, 400, 3, 0])
        rows = pack.rows(index, labels[index])
        expected = np.concatenate(
            [encode(**fields(labels[i : i + 1], seed=i)) for i in index]
        )
        assert rows.keys() == set(expected.dtype.names) - {"label"}
        for name, value in rows.items():
            assert value.dtype == expected[name].dtype
            assert value.flags.c_contiguous
            np.testing.assert_array_equal(value, expected[name])
        assert pack.num_classes == 10
        assert pack.spec.grid == (3, 4)

    @pytest.mark.parametrize("index", [1438, -1])
    def test_an_example_that_it_lacks(self, written, index):
        with pytest.raises(
            UserError, match=f"holds 1438 examples, but example {index}"
        ):
            LabelPack.open(written).rows(np.array([0, index]))

    def test_another_label_is_refused(self, digits, written):
        labels = all_labels(digits)[:4]
        labels[2] = (labels[2] + 1) % 10
        with pytest.raises(UserError, match=r"example 2 is of class \d there"):
            LabelPack.open(written).rows(np.arange(4), labels)

    def test_batches_of_a_subset_and_of_copies(self, data_dir, written):
        """The index of a batch leads to the example in the whole split."""
        pack = LabelPack.open(written)
        options = {"examples": 300, "repeats": 3, "data_dir": data_dir}
        some = data.build("digits", **options)
        pack.check(some, num_classes=10)
        with some.train_batches(64, seed=0) as batches:
            for _ in range(8):
                batch = next(batches)
                assert batch["index"].max() >= 300
                ids = some.example_ids(batch["index"])
                assert ids.max() > 300
                pack.rows(ids, batch["label"])

    def test_all_examples_have_their_own_place(self, digits):
        index = np.array([0, 5, 1437, 1438, 1443])
        np.testing.assert_array_equal(digits.example_ids(index), [0, 5, 1437, 0, 5])


class TestDamage:
    def test_a_flipped_byte_anywhere(self, copy):
        for file in sorted(copy.iterdir()):
            whole = file.read_bytes()
            for place in (1, len(whole) // 2, len(whole) - 20):
                flipped = bytearray(whole)
                flipped[place] ^= 1
                file.write_bytes(flipped)
                with pytest.raises(UserError) as caught:
                    LabelPack.open(copy)
                assert "\n" not in str(caught.value)
                assert file.name in str(caught.value)
            file.write_bytes(whole)
        LabelPack.open(copy)

    def test_a_cut_or_missing_file(self, copy):
        file = copy / "labels.array_record-00002-of-00004"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(UserError, match="00002-of-00004 has another size"):
            LabelPack.open(copy)
        file.unlink()
        with pytest.raises(UserError, match="00002-of-00004 is missing"):
            LabelPack.open(copy)

    def test_another_version(self, copy):
        header = json.loads((copy / FINISHED).read_text())
        (copy / FINISHED).write_text(json.dumps(header | {"version": 2}))
        with pytest.raises(UserError, match=r"of version 2; 1 is expected"):
            LabelPack.open(copy)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', "\x00"])
    def test_a_header_that_is_none(self, copy, text):
        (copy / FINISHED).write_text(text)
        with pytest.raises(UserError, match=r"pack\.json is damaged"):
            LabelPack.open(copy)

    def test_no_pack(self, tmp_path):
        with pytest.raises(UserError, match="none does not exist; make one with"):
            LabelPack.open(tmp_path / "none")
        with pytest.raises(UserError, match="is not a label pack; make one with"):
            LabelPack.open(tmp_path)


class TestCheck:
    def refused(self, pack, source, part, num_classes=10):
        with pytest.raises(UserError, match=part) as caught:
            LabelPack.open(pack).check(source, num_classes=num_classes)
        assert "\n" not in str(caught.value)

    def test_its_own_data(self, digits, written):
        LabelPack.open(written).check(digits, num_classes=10)

    def test_another_number_of_examples(self, data_dir, written):
        part = data.build("digits", data_dir=data_dir, train_split="train[:500]")
        self.refused(written, part, "with 1438 training examples, but digits has 500")

    def test_another_order(self, data_dir, written):
        split = "train[500:]+train[:500]"
        part = data.build("digits", data_dir=data_dir, train_split=split)
        self.refused(written, part, "other data or another order")

    def test_other_classes_of_the_model(self, digits, written):
        self.refused(written, digits, "labels of 10 classes, digits has 10", 11)

    def test_a_folder(self, folder, tmp_path):
        def source():
            return data.build(f"folder:{root}", train_crop="whole")

        root = tmp_path / "pictures"
        for part in ("train", "test"):
            folder(f"pictures/{part}", ("cat", "dog", "eel"))
        pack = tmp_path / "pack"
        write_pack(pack, spec_of(source(), shard_size=10), records_of(source()))
        LabelPack.open(pack).check(source(), num_classes=3)
        for part in ("train", "test"):
            (root / part / "eel").rename(root / part / "emu")
        self.refused(pack, source(), 'whose class "eel" is "emu" in folder', 3)
        for part in ("train", "test"):
            (root / part / "emu").rename(root / part / "eel")
        one = root / "train" / "cat" / "03.jpg"
        one = one.rename(one.with_suffix(".jpeg"))
        LabelPack.open(pack).check(source(), num_classes=3)
        one = one.rename(one.with_stem("11"))
        self.refused(pack, source(), "the files of folder:.* have other names", 3)


class TestWriting:
    def test_killed_and_begun_again(self, digits, written, tmp_path):
        """The bytes are those of one go, and complete files are not made again."""
        path, spec, records = tmp_path / "pack", spec_of(digits), records_of(digits)
        asked = []

        def dying(after):
            def give(part):
                asked.append(part.start)
                for done, piece in enumerate(records(part)):
                    if part.start + 64 * done >= after:
                        raise KeyboardInterrupt
                    yield piece

            return give

        for after in (0, 100, 500, 900):
            with pytest.raises(KeyboardInterrupt):
                write_pack(path, spec, dying(after))
            assert not (path / FINISHED).exists()
            with pytest.raises(UserError, match="unfinished label pack; run the"):
                LabelPack.open(path)
        assert asked == [0, 0, 0, 400, 400, 800]
        assert write_pack(path, spec, records)
        assert runs.snapshot(path) == runs.snapshot(written)
        assert not write_pack(path, spec, dying(0))

    def test_killed_between_records_and_header(self, digits, written, tmp_path):
        path, spec = tmp_path / "pack", spec_of(digits)

        def give(part):
            if part.start == 800:
                raise KeyboardInterrupt
            yield from records_of(digits)(part)

        with pytest.raises(KeyboardInterrupt):
            write_pack(path, spec, give)
        header = json.loads((path / BEGUN).read_text())
        assert len(header["files"]) == 2
        (path / "labels.array_record-00002-of-00004").write_bytes(b"of a dead one")
        assert write_pack(path, spec, records_of(digits))
        assert runs.snapshot(path) == runs.snapshot(written)

    @pytest.mark.parametrize("name", [FINISHED, BEGUN])
    def test_a_pack_of_something_else(self, digits, copy, name):
        (copy / FINISHED).rename(copy / name)
        before = runs.snapshot(copy)
        for change in (
            {"top": 4},
            {"grid": (4, 3)},
            {"teacher": TEACHER | {"checksum": "w"}},
            {"rest": "zero"},
            {"count": 1000},
        ):
            other = spec_of(digits, **change)
            with pytest.raises(UserError, match=f"with another {next(iter(change))}"):
                write_pack(copy, other, records_of(digits))
        assert runs.snapshot(copy) == before

    def test_a_folder_of_something_else(self, digits, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match="holds something else; give a new"):
            write_pack(tmp_path, spec_of(digits), records_of(digits))
        with pytest.raises(UserError, match="cannot be written"):
            write_pack(tmp_path / "notes.txt", spec_of(digits), records_of(digits))
        assert runs.snapshot(tmp_path).keys() == {"notes.txt"}

    def test_two_writers(self, digits, tmp_path):
        path, spec = tmp_path / "pack", spec_of(digits)

        def give(part):
            with pytest.raises(UserError, match="is in use by process"):
                write_pack(path, spec, records_of(digits))
            yield from records_of(digits)(part)

        assert write_pack(path, spec, give)

    def test_a_full_disk(self, digits, tmp_path, monkeypatch):
        monkeypatch.setattr(label_pack_writer, "digest", self.full)
        with pytest.raises(UserError, match=r"\(No space left on device\); complete"):
            write_pack(tmp_path / "pack", spec_of(digits), records_of(digits))

    def full(self, file):
        raise OSError(28, os.strerror(28))

    def test_errors_of_the_teacher_are_its_own(self, digits, tmp_path):
        def give(part):
            raise RuntimeError("the device")
            yield

        with pytest.raises(RuntimeError, match="the device"):
            write_pack(tmp_path / "pack", spec_of(digits), give)


def test_size_of_imagenet():
    """1,281,167 images of 14 x 14 patches, 5 classes each: under 4 GB, uncompressed."""
    given = fields(range(1), grid=(14, 14))
    assert 1_281_167 * encode(**given).dtype.itemsize < 3.82e9

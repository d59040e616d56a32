"""Opened packs: sound or refused, and only for the data that they were made for."""

import json

import numpy as np
import pytest
from label_packs import all_labels, fields, records_of, spec_of

from vit_jax_tricks import data
from vit_jax_tricks.data.label_pack import LabelPack
from vit_jax_tricks.data.label_pack.code import encode
from vit_jax_tricks.data.label_pack.manifest import FINISHED
from vit_jax_tricks.data.label_pack.writer import write_pack
from vit_jax_tricks.errors import UserError


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

"""Written packs: what goes in comes out, whole or not at all."""

import json
import os

import pytest
import runs
from label_packs import TEACHER, records_of, spec_of

from vit_jax_tricks.data.label_pack import LabelPack, writer
from vit_jax_tricks.data.label_pack.manifest import BEGUN, FINISHED
from vit_jax_tricks.data.label_pack.writer import write_pack
from vit_jax_tricks.errors import UserError


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
        monkeypatch.setattr(writer, "digest", self.full)
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

"""New workdirs appear whole or not at all, and their place is tried before the work."""

import pytest
import runs

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import made_run


def new(out):
    return made_run.check_new(out)


@pytest.mark.parametrize("there", [False, True])
def test_it_appears_at_the_end(tmp_path, there):
    """An empty folder keeps its identity: a disk may be mounted there."""
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
        inode = out.stat().st_ino
    with made_run.staged(new(out)) as folder:
        (folder / "report").mkdir()
        (folder / "report" / "a.md").write_text("a")
        (folder / "b").write_text("b")
        assert there or not out.exists()
    assert {p.name for p in out.rglob("*")} == {"report", "a.md", "b"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert not there or out.stat().st_ino == inode


@pytest.mark.parametrize("there", [False, True])
def test_after_an_error_nothing_is_left(tmp_path, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    before = runs.snapshot(tmp_path)

    def work():
        with made_run.staged(new(out)) as folder:
            (folder / "b").write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert runs.snapshot(tmp_path) == before


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_command_left_is_cleared(tmp_path, there):
    out = tmp_path / "out"
    left = out / ".partial" if there else tmp_path / ".out.partial"
    (left / "made").mkdir(parents=True)
    (left / "made" / "half").write_text("half")
    with made_run.staged(new(out)) as folder:
        (folder / "b").write_text("b")
    assert [p.name for p in out.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", "/proc/out"):
        place = made_run.staged(new(out))
        with pytest.raises(UserError, match="cannot be written"):
            place.__enter__()
    for taken in (tmp_path / "file", tmp_path):
        with pytest.raises(UserError, match="holds something already"):
            new(taken)


@pytest.mark.parametrize("there", [False, True])
def test_two_commands_that_make_the_same(tmp_path, there):
    """The later one is refused, the earlier one ends."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with made_run.staged(new(out)) as folder:
        (folder / "b").write_text("b")
        with pytest.raises(UserError, match=r"is in use by process .* another folder"):
            made_run.staged(new(out)).__enter__()
    assert [p.name for p in out.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

"""Checkpoints: what is kept, what damage does, and writes that fail."""

import json
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest
import runs

from vit_jax_tricks import state
from vit_jax_tricks.checkpoint import MANIFEST, Checkpointer
from vit_jax_tricks.errors import UserError


def make(step: int = 0, **params) -> state.TrainState:
    """A state whose values depend on the step."""
    params = params or {"w": jnp.full((3, 4), 0.1 + step), "b": jnp.zeros(2)}
    made = state.create(
        {"params": params},
        optimizer=optax.adam(1e-3),
        key=jax.random.key(7),
        ema=True,
    )
    return made.replace(step=jnp.asarray(step, jnp.int32))


def like(**params) -> state.TrainState:
    """Shapes and shardings only, as a starting run gives."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), make(**params)
    )


@pytest.fixture
def opened(tmp_path):
    """A function that opens the folder anew, and the lines that were said."""
    said: list[str] = []
    made: list[Checkpointer] = []

    def open_():
        made.append(Checkpointer(tmp_path / "run" / "c", keep=2, say=said.append))
        return made[-1], said

    yield open_
    for checkpointer in made:
        checkpointer.close()


def write(opened, *steps: int, scores=None) -> None:
    checkpointer, _ = opened()
    for step in steps:
        checkpointer.save(make(step), {"at": step}, score=(scores or {}).get(step))
    checkpointer.close()


def test_restores_what_was_saved(opened):
    write(opened, 3)
    checkpointer, said = opened()
    found, meta = checkpointer.restore(like())
    assert meta == {"at": 3}
    assert said == []
    assert jax.tree.structure(found) == jax.tree.structure(make())
    assert runs.same(found, make(3))


def test_nothing_there(opened):
    assert opened()[0].restore(like()) is None


def test_keeps_the_newest_and_the_best(opened):
    write(opened, 1, 2, 3, 4, 5, scores={1: 0.1, 2: 0.9, 4: 0.5})
    assert opened()[0].steps() == [2, 4, 5]


def test_a_score_that_comes_later_replaces(opened):
    checkpointer, _ = opened()
    checkpointer.save(make(1), {"at": 0})
    checkpointer.save(make(1), {"at": 1})
    checkpointer.wait()
    assert checkpointer.restore(like())[1] == {"at": 0}
    checkpointer.save(make(1), {"at": 2}, score=0.5)
    checkpointer.wait()
    assert checkpointer.restore(like())[1] == {"at": 2}


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1] = [data[middle] ^ 1] if data else b"!"
    path.write_bytes(data)


def test_a_flipped_byte_in_any_file_is_noticed(opened, tmp_path):
    write(opened, 1, 2)
    folder = tmp_path / "run" / "c"
    shutil.copytree(folder, tmp_path / "sound")
    files = [p.relative_to(folder) for p in (folder / "2").rglob("*") if p.is_file()]
    assert len(files) > 15
    for number, file in enumerate(sorted(files)):
        flip(folder / file)
        checkpointer, said = opened()
        found, meta = checkpointer.restore(like())
        assert (int(found.step), meta) == (1, {"at": 1}), file
        assert len(said) == number + 1
        assert said[-1].startswith("checkpoint 2 is damaged")
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "sound", folder)
    assert len(list((tmp_path / "run" / "damaged").iterdir())) == len(files)


@pytest.mark.parametrize("part", ["", "state", "meta/metadata", MANIFEST])
def test_a_missing_part_is_noticed(part, opened, tmp_path):
    write(opened, 1, 2)
    path = tmp_path / "run" / "c" / "2" / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    checkpointer, said = opened()
    assert checkpointer.restore(like())[1] == {"at": 1}
    assert len(said) == (1 if part else 0)


def test_a_damaged_older_one_is_moved_too(opened, tmp_path):
    """A half deleted one would stop Orbax later."""
    write(opened, 1, 2)
    flip(tmp_path / "run" / "c" / "1" / "metrics" / "metrics")
    checkpointer, _ = opened()
    assert checkpointer.restore(like())[1] == {"at": 2}
    assert checkpointer.steps() == [2]


def test_wrong_bytes_that_were_summed_later_are_noticed(opened, tmp_path):
    """The leaves' checksums hold where the files' do: memory that went bad."""
    write(opened, 1, 2)
    folder = tmp_path / "run" / "c" / "2"
    meta = json.loads((folder / "meta" / "metadata").read_text())
    meta["leaves"]["params/w"][1] ^= 1
    (folder / "meta" / "metadata").write_text(json.dumps(meta))
    from vit_jax_tricks.checkpoint import write_manifest

    write_manifest(folder)
    checkpointer, said = opened()
    assert checkpointer.restore(like())[1] == {"at": 1}
    assert "params/w" in said[0]


def test_all_damaged_is_an_error_and_nothing_moves(opened, tmp_path):
    write(opened, 1, 2)
    for step in "12":
        flip(tmp_path / "run" / "c" / step / "_CHECKPOINT_METADATA")
    before = runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        opened()[0].restore(like())
    assert runs.snapshot(tmp_path) == before


def test_a_first_save_cut_short_is_no_checkpoint(opened, tmp_path):
    write(opened, 1)
    (tmp_path / "run" / "c" / "1" / MANIFEST).unlink()
    checkpointer, said = opened()
    assert checkpointer.restore(like()) is None
    assert "not completely written" in said[0]
    assert checkpointer.steps() == []


def test_another_state_is_an_error(opened, tmp_path):
    write(opened, 1)
    before = runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"another model or optimizer.*params/v"):
        opened()[0].restore(like(w=jnp.zeros((3, 4)), b=jnp.zeros(2), v=jnp.zeros(1)))
    with pytest.raises(
        UserError, match=r"params/w is float32\[3,4\] there, float32\[4,4\] here"
    ):
        opened()[0].restore(like(w=jnp.zeros((4, 4)), b=jnp.zeros(2)))
    assert runs.snapshot(tmp_path) == before


def test_a_save_that_fails_is_one_error(opened, tmp_path):
    write(opened, 1)
    folder = tmp_path / "run" / "c"
    checkpointer, _ = opened()
    checkpointer.save(make(2), {"at": 2})
    checkpointer.wait()
    folder.rename(tmp_path / "run" / "kept")
    folder.write_text("in the way")

    def save():
        checkpointer.save(make(3), {"at": 3})
        checkpointer.wait()

    with pytest.raises(UserError, match="could not be written"):
        save()
    checkpointer.close()
    folder.unlink()
    (tmp_path / "run" / "kept").rename(folder)
    assert opened()[0].restore(like())[1] == {"at": 2}


def test_one_checkpoint_is_too_few(tmp_path):
    with pytest.raises(UserError, match="at least 2"):
        Checkpointer(tmp_path, keep=1, say=print)

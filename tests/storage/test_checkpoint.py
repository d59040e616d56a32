"""Checkpoints: what is kept, what damage does, and writes that fail."""

import errno
import json
import math
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import runs
from quick import sparse

from vit_jax_tricks import state
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.storage import checkpoint
from vit_jax_tricks.storage.checkpoint import Checkpointer, SaveError, read_variables
from vit_jax_tricks.storage.manifest import MANIFEST, write_manifest


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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([0.9, 0.1, 0.2, 0.3], [1, 3, 4]),
        ([math.nan, 0.9, 0.1, 0.2], [2, 3, 4]),  # competes for nothing
        ([math.nan] * 4, [3, 4]),
        ([-5.0, -math.inf, -9.0, -9.0], [1, 3, 4]),
        ([np.float32(0.1), jnp.float32(0.9), 0.0, 0.5], [2, 3, 4]),
    ],
)
def test_scores_of_any_kind(given, kept, opened):
    write(opened, 1, 2, 3, 4, scores=dict(enumerate(given, 1)))
    assert opened()[0].steps() == kept
    assert opened()[0].restore(like())[1] == {"at": 4}


def test_a_score_that_comes_later_is_kept_beside(opened, tmp_path):
    """The state is written once; nothing of it is touched again."""
    checkpointer, _ = opened()
    checkpointer.save(make(1), {"at": 0})
    checkpointer.save(make(1), {"at": 1})
    checkpointer.wait()
    assert checkpointer.restore(like())[1] == {"at": 0}
    folder = tmp_path / "run" / "c" / "1"
    before, inode = runs.snapshot(folder), folder.stat().st_ino
    checkpointer.save(make(1), {"at": 2}, score=0.5)
    checkpointer.wait()
    assert checkpointer.restore(like())[1] == {"at": 2}
    after = runs.snapshot(folder)
    assert after.pop("later.json")
    assert (after, folder.stat().st_ino) == (before, inode)
    for step in (2, 3, 4):
        checkpointer.save(make(step), {})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 3, 4]


@pytest.mark.parametrize("damage", ["cut", "of another step"])
def test_a_damaged_score_costs_no_checkpoint(damage, opened, tmp_path):
    write(opened, 1, 2, scores={1: 0.25, 2: 0.5})
    folder = tmp_path / "run" / "c"
    later = folder / "2" / "later.json"
    text = later.read_bytes()[:-9]
    other = (folder / "1" / "later.json").read_bytes()
    later.write_bytes(text if damage == "cut" else other)
    checkpointer, said = opened()
    assert checkpointer.restore(like())[1] == {"at": 2}
    assert [line.partition(",")[0] for line in said] == [
        "later.json of checkpoint 2 is damaged"
    ]
    write(opened, 3, 4, 5, 6)
    assert opened()[0].steps() == [1, 2, 5, 6]  # the damaged score may be the best


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
    assert len(files) > 10
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


NAMES = (
    *("[a]", "]", "[", "a*", "?", "{a,b}", "\\", "a\\b", "[!a]", "**"),
    *("a b", " ", "a\nb", "\t", "%41", "#", "a:b", "$HOME", "'", '"', "~", "é ü 猫 🐈"),
    "gs:",
)


@pytest.mark.parametrize("name", sparse(NAMES, every=5))
def test_any_name_of_the_folder(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    checkpointer = Checkpointer(folder, keep=2, say=pytest.fail)
    for step in (1, 2, 3):
        checkpointer.save(make(step), {"at": step})
    checkpointer.close()
    found, meta = Checkpointer(folder, keep=2, say=pytest.fail).restore(like())
    assert meta == {"at": 3}
    assert runs.same(found, make(3))
    read = read_variables(folder / "3")
    assert runs.same(read["params"], make(3).params)
    assert [p.name for p in sorted(folder.iterdir())] == ["2", "3"]


def test_a_save_that_cannot_be_read_back_is_no_checkpoint(
    opened, tmp_path, monkeypatch
):
    """Nothing is deleted for it, and the next start does not see it."""
    write(opened, 1, 2)
    checkpointer, _ = opened()
    original = checkpoint._read_arrays

    def wrong(path, shapes):
        found = original(path, shapes)
        found["params"]["w"] = found["params"]["w"] + 1
        return found

    monkeypatch.setattr(checkpoint, "_read_arrays", wrong)
    checkpointer.save(make(3), {"at": 3})
    with pytest.raises(SaveError, match="params/w is read back with other values"):
        checkpointer.wait()
    assert checkpointer.steps() == [1, 2]
    monkeypatch.undo()
    checkpointer.save(make(3), {"at": 3})
    checkpointer.wait()
    assert checkpointer.steps() == [2, 3]


@pytest.mark.parametrize("part", ["params", "ema"])
def test_a_state_that_is_not_finite_is_not_saved(part, opened):
    write(opened, 1, 2)
    checkpointer, _ = opened()
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), getattr(make(3), part))
    checkpointer.save(make(3).replace(**{part: bad}), {})
    with pytest.raises(SaveError, match=f"step 3 is not finite .{part}/.*intact"):
        checkpointer.wait()
    assert checkpointer.steps() == [1, 2]
    assert checkpointer.restore(like())[1] == {"at": 2}


STRAYS = (
    *(".DS_Store", "._state", "Thumbs.db", "desktop.ini", ".nfs0001", "state~"),
    *("@eaDir/x", "lost+found/x", ".Trashes/x", "notes.txt", "3", "²"),
)


def test_stray_files_are_no_damage(opened, tmp_path):
    write(opened, 1, 2)
    folder = tmp_path / "run" / "c"
    for place in ("", "2", "2/state", "2/state/d", "2/meta"):
        for name in STRAYS:
            stray = folder / place / name
            stray.parent.mkdir(exist_ok=True)
            stray.write_bytes(b"\0\0\0\1Bud1")
    checkpointer, said = opened()
    found, meta = checkpointer.restore(like())
    assert (meta, said) == ({"at": 2}, [])
    assert runs.same(found, make(2))
    assert runs.same(read_variables(folder / "2")["params"], make(2).params)
    (folder / "3").unlink()
    for step in (3, 4):
        checkpointer.save(make(step), {"at": step})
    checkpointer.wait()
    assert checkpointer.steps() == [3, 4]
    assert not [p for p in folder.glob(".*") if p.name.endswith((".old", ".part"))]


def test_what_a_killed_process_began_is_removed(opened, tmp_path):
    write(opened, 1, 2)
    folder = tmp_path / "run" / "c"
    for name in (".3.part", ".0.old", "3.orbax-checkpoint-tmp-1"):
        shutil.copytree(folder / "1", folder / name)
    write(opened, 3)
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3"]


def by_orbax(folder, scores) -> None:
    """Checkpoints as Orbax's manager writes them, which earlier versions used."""
    policies = ocp.checkpoint_managers.preservation_policy
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda m: m["score"],
        preservation_policy=policies.LatestN(9),
    )
    with ocp.CheckpointManager(folder, options=options) as manager:
        for step, score in scores.items():
            tree = checkpoint._plain_tree(make(step))
            leaves = checkpoint._leaves(tree)
            crcs = {p: [checkpoint._kind(x), runs.crc(x)] for p, x in leaves}
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    meta=ocp.args.JsonSave({"at": step, "leaves": crcs}),
                ),
                metrics={"score": score},
            )
    for step in scores:
        write_manifest(folder / str(step))


def test_checkpoints_of_earlier_versions(opened, tmp_path):
    by_orbax(tmp_path / "run" / "c", {1: 0.25, 2: 0.75, 3: -1e30})
    checkpointer, said = opened()
    found, meta = checkpointer.restore(like())
    assert (meta, said) == ({"at": 3}, [])
    assert runs.same(found, make(3))
    for step, score in ((4, 0.5), (5, None)):
        checkpointer.save(make(step), {"at": step}, score=score)
    checkpointer.wait()
    assert checkpointer.steps() == [2, 4, 5]


def test_damage_on_another_disk(opened, tmp_path, monkeypatch):
    write(opened, 1, 2)
    flip(tmp_path / "run" / "c" / "2" / "state" / "_METADATA")

    def rename(*args):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", rename)
    checkpointer, said = opened()
    assert checkpointer.restore(like())[1] == {"at": 1}
    assert len(said) == 1
    assert (tmp_path / "run" / "damaged" / "2" / "state").is_dir()
    assert checkpointer.steps() == [1]


def test_a_damaged_older_one_is_moved_too(opened, tmp_path):
    """A half deleted one would stop Orbax later."""
    write(opened, 1, 2)
    flip(tmp_path / "run" / "c" / "1" / "meta" / "metadata")
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
    write_manifest(folder)
    checkpointer, said = opened()
    assert checkpointer.restore(like())[1] == {"at": 1}
    assert "params/w" in said[0]


def test_all_damaged_is_an_error_and_nothing_moves(opened, tmp_path):
    write(opened, 1, 2)
    for step in "12":
        flip(tmp_path / "run" / "c" / step / "state" / "_METADATA")
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


@pytest.mark.parametrize("keep", [1, 0, -3, True])
def test_one_checkpoint_is_too_few(keep, tmp_path):
    with pytest.raises(UserError, match=f"keep={keep!r}: expected at least 2"):
        Checkpointer(tmp_path, keep=keep, say=print)

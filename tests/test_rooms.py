"""The layout of the package: who may import whom, and how long a file may be."""

import statistics

import import_graph
import pytest
from import_graph import circles, reachable


DOORS = ("main", "evaluate", "predict", "relabel", "quantize", "prune")
DOORS += ("export.__main__", "inspect.__main__")
FLAGS = {"argparse", "tyro"}
PICKLED_OPTIONS = "pretrained.pth"  # reads the options that official .pth files hold


@pytest.fixture(scope="module")
def graph():
    """Imports between our own files; the package itself loads its names on demand."""
    found = import_graph.read()
    return {name: found[name].ours - {""} for name in found if name}


def test_a_circle_is_found():
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}
    assert circles(graph) == [["b", "c"]]
    assert circles({"a": ["b"], "b": []}) == []


def test_imports_are_read_wherever_they_stand():
    source = """
from vit_jax_tricks import paths, create_model
if TYPE_CHECKING:
    from vit_jax_tricks.train import step
def run():
    import flax.linen as nn
    from vit_jax_tricks.train.loop import run
"""
    known = ["paths", "train", "train.step", "train.loop"]
    found = import_graph.imports(source, known)
    assert found.ours == {"", "paths", "train.step", "train.loop"}
    assert found.others == {"flax"}


def test_no_file_imports_itself_through_others(graph):
    assert circles(graph) == []


def test_no_room_imports_itself_through_others(graph):
    behind = {name: graph[name] for name in graph if name not in DOORS}
    assert circles(import_graph.rooms(behind)) == []


def test_only_doors_import_commands_and_nothing_imports_a_door(graph):
    for name, targets in graph.items():
        assert not targets & set(DOORS), name
        if name not in DOORS and not name.startswith("commands"):
            assert not {t for t in targets if t.startswith("commands")}, name


def test_commands_alone_parse_flags():
    for name, found in import_graph.read().items():
        if not name.startswith("commands") and name != PICKLED_OPTIONS:
            assert not found.others & FLAGS, name


@pytest.mark.parametrize("room", ["losses", "augment"])
def test_a_room_without_frameworks(room, graph):
    found = import_graph.read()
    inside = {name for name in graph if name.partition(".")[0] == room}
    assert len(inside) > 10
    for name in reachable(graph, inside):
        banned = found[name].others & {"flax", "ml_collections", "optax", "configs"}
        assert not banned, name
        assert not name.startswith("config"), name


def test_files_are_short_and_few_are_at_the_top():
    names = import_graph.files()
    lengths = {n: len(p.read_text().splitlines()) for n, p in names.items()}
    assert max(lengths.values()) <= 500
    assert statistics.median(lengths.values()) < 150
    assert len([p for p in names.values() if p.parent == import_graph.ROOT]) <= 20
    assert not [n for n in names if n.endswith("utils")]

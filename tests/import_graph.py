"""Imports between the files of the package, read from their source."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import vit_jax_tricks


NAME = vit_jax_tricks.__name__
ROOT = Path(vit_jax_tricks.__file__).parent

Graph = Mapping[str, Iterable[str]]


class Imports(NamedTuple):
    """What a file imports: files of the package, and top-level names of others."""

    ours: frozenset[str]
    others: frozenset[str]


def files() -> dict[str, Path]:
    """Each file by its dotted name without the package's: `train.step`, `losses`."""
    out = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports(source: str, known: Iterable[str]) -> Imports:
    """Reads all imports of a file: at its top, for types only, and in functions."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = {f"{NAME}.{name}".rstrip(".") for name in known}
            named = [name if name in inside else node.module for name in whole]
        else:
            continue
        for name in map(str, named):
            if name == NAME or name.startswith(f"{NAME}."):
                ours.add(name[len(NAME) + 1 :])
            else:
                others.add(name.partition(".")[0])
    return Imports(frozenset(ours), frozenset(others))


def read() -> dict[str, Imports]:
    """The imports of every file of the package."""
    known = files()
    return {name: imports(path.read_text(), known) for name, path in known.items()}


def rooms(graph: Graph) -> dict[str, set[str]]:
    """Merges the files of each subpackage; a file at the top stays by itself."""
    out: dict[str, set[str]] = {}
    for name, targets in graph.items():
        room = name.partition(".")[0]
        found = {target.partition(".")[0] for target in targets}
        out.setdefault(room, set()).update(found - {room})
    return out


def reachable(graph: Graph, start: Iterable[str]) -> set[str]:
    """`start` and everything that it imports, directly or not."""
    seen, rest = set(), list(start)
    while rest:
        name = rest.pop()
        if name not in seen:
            seen.add(name)
            rest += graph.get(name, ())
    return seen


def circles(graph: Graph) -> list[list[str]]:
    """Groups of two or more that import one another, directly or not."""
    beyond = {name: reachable(graph, graph[name]) for name in graph}
    found = {
        tuple(sorted(b for b in beyond[a] if b in graph and a in beyond[b]))
        for a in graph
        if a in beyond[a]
    }
    return [list(group) for group in sorted(found)]

"""One seeded damage to a folder, as disks, cut copies and hands leave behind."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


DEEP = "[" * 100_000
VALUES = (
    *(None, True, -1, 0, 7, 1.5, 1e308, 10**30, float("nan"), "", "x", "../x"),
    *([], {}, [[]], ["x"], {"x": 1}),
)
STOP = 0.2  # how often a folder itself is the target
DEEP_FILES = 0.4  # how often it is any file, most of which lie deep


def damage(root: Path, seed: str) -> str:
    """Damages one file or folder below `root`; says how, and which."""
    rng = random.Random(seed)
    target = _below(rng, root)
    act = rng.choice(FOLDERS if target.is_dir() else FILES)
    name = str(target.relative_to(root))
    act(rng, root, target)
    return f"{act.__name__} {name}"


def damage_file(path: Path, seed: str) -> str:
    """Damages the content of one file; says how."""
    rng = random.Random(seed)
    act = rng.choice(CONTENTS)
    act(rng, path.parent, path)
    return act.__name__


def _below(rng: random.Random, root: Path) -> Path:
    """A file or folder: of all files, or each folder's entries equally likely."""
    if rng.random() < DEEP_FILES:
        return rng.choice([path for path in sorted(root.rglob("*")) if path.is_file()])
    target = rng.choice(sorted(root.iterdir()))
    while target.is_dir() and rng.random() > STOP and any(target.iterdir()):
        target = rng.choice(sorted(target.iterdir()))
    return target


def flip(rng: random.Random, root: Path, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 8)) if content else 0):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def cut(rng: random.Random, root: Path, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def lengthen(rng: random.Random, root: Path, path: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice((1, 16, 4096))))


def empty(rng: random.Random, root: Path, path: Path) -> None:
    path.write_bytes(b"")


def noise(rng: random.Random, root: Path, path: Path) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def zeros(rng: random.Random, root: Path, path: Path) -> None:
    """Part of the file, as after a power cut."""
    content = path.read_bytes()
    start = rng.randrange(len(content) + 1)
    path.write_bytes(content[:start] + bytes(len(content) - start))


def text(rng: random.Random, root: Path, path: Path) -> None:
    path.write_text(rng.choice((DEEP, "{}", "[]", "null", "[1]", '{"a": "b"}', "\n")))


def edit(rng: random.Random, root: Path, path: Path) -> None:
    """Another value somewhere in a JSON file."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return flip(rng, root, path)
    holder: dict[Any, Any] = {"": tree}
    key, value = "", tree
    while isinstance(value, dict | list) and value and rng.random() > STOP:
        holder = value
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = holder[key]
    if key != "" and rng.random() < STOP:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    path.write_text(json.dumps(tree if key != "" else holder[""], indent=2))
    return None


def other(rng: random.Random, root: Path, path: Path) -> None:
    """The content of another file."""
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    path.write_bytes(rng.choice(files).read_bytes())


def delete(rng: random.Random, root: Path, path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(rng: random.Random, root: Path, path: Path) -> None:
    delete(rng, root, path)
    path.mkdir()


def file(rng: random.Random, root: Path, path: Path) -> None:
    delete(rng, root, path)
    path.write_bytes(rng.randbytes(rng.choice((0, 99))))


def link(rng: random.Random, root: Path, path: Path) -> None:
    """A link to nothing, to itself or to a folder around it."""
    delete(rng, root, path)
    path.symlink_to(rng.choice(("none", path.name, "..", "/dev/null")))


def linked(rng: random.Random, root: Path, path: Path) -> None:
    """Moved out of the folder, with a link in its place, which changes nothing."""
    away = root.parent / f"moved_{path.name}"
    path.rename(away)
    path.symlink_to(away)


def rename(rng: random.Random, root: Path, path: Path) -> None:
    names = (f"{path.name}.part", f"x{path.name}", path.stem, "7", f"0{path.name}")
    free = [n for n in names if not path.with_name(n).exists()]
    path.rename(path.with_name(rng.choice(free)))


def swap(rng: random.Random, root: Path, path: Path) -> None:
    """Two files, or two folders, change places."""
    for _ in range(20):
        other = _below(rng, root)
        apart = not other.is_relative_to(path) and not path.is_relative_to(other)
        if apart and other.is_dir() == path.is_dir():
            between = root / ".between"
            path.rename(between)
            other.rename(path)
            between.rename(other)
            return


Act = Callable[[random.Random, Path, Path], None]
CONTENTS: tuple[Act, ...] = (flip, cut, lengthen, empty, noise, zeros, text)
PLACES: tuple[Act, ...] = (delete, link, linked, rename, swap)
FILES: tuple[Act, ...] = (*CONTENTS, edit, other, folder, *PLACES)
FOLDERS: tuple[Act, ...] = (folder, file, *PLACES)

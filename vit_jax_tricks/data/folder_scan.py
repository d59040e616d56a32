"""Walks class folders: reads each real picture once and counts what is left out."""

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping

from vit_jax_tricks.data.picture_file import SUFFIXES


Files = dict[str, list[str]]  # class -> sorted paths relative to the root
# Folders that systems add: thumbnails, resource forks, deleted files.
SYSTEM = (
    "@eadir",
    "__macosx",
    "#recycle",
    "@recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
MOST_KINDS = 12  # most kinds named in one line
LINKED = "linked to what is read already"
ABOVE = "linked to a folder around this one"
ODD = "pipe or device"


def subfolders(folder: pathlib.Path) -> list[str]:
    """Visible folders in a folder, sorted, without system folders."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not _reserved(e.name) and _is_dir(e))


def is_picture(name: str) -> bool:
    """Whether the file name has a picture suffix."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


class Scan:
    """The pictures of one root; `left_out` counts the rest by suffix and reason.

    Real folders and files are read first, then links. A link adds only what no other
    path leads to, so that loops end and no picture counts twice or under two classes.
    """

    def __init__(self, root: pathlib.Path):
        self.left_out: collections.Counter[str] = collections.Counter()
        self._root, self._real = str(root), os.path.realpath(root)
        self._found: dict[tuple[str, str], dict[str, str]] = {}  # path -> real path
        self._links: list[tuple[tuple[str, str], str]] = []
        self._folders: set[str] = set()
        self._files: set[str] | None = None  # real paths, once there are links

    def classes(self, parts: Mapping[str, pathlib.Path]) -> dict[str, Files]:
        """The pictures of each part by subfolder; `parts` are the root or below it."""
        self._folders |= {os.path.realpath(folder) for folder in parts.values()}
        for part, folder in parts.items():
            self._loose(folder)
            for name in subfolders(folder):
                path = os.path.relpath(folder / name, self._root)
                self._found[part, name] = {}
                self._enter((part, name), path.replace(os.sep, "/"))
        self._follow()
        return {
            part: {
                name: sorted(found)
                for (where, name), found in self._found.items()
                if where == part
            }
            for part in parts
        }

    def said(self) -> str:
        """Lists what was left out, most frequent first: "8 .txt, 3 hidden", or ""."""
        kinds = self.left_out.most_common()
        more = len(kinds) - MOST_KINDS
        named = [f"{count} {kind}" for kind, count in kinds[:MOST_KINDS]]
        return ", ".join(named + ([f"and {more} more kinds"] if more > 0 else []))

    def _loose(self, folder: pathlib.Path) -> None:
        """Counts the files beside the class folders."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if _reserved(entry.name):
                    self._skip(entry.path, entry.name)
                elif not _is_dir(entry):
                    loose = is_picture(entry.name)
                    kind = "beside the class folders" if loose else ""
                    self.left_out[kind or _kind(entry.name)] += 1

    def _enter(self, key: tuple[str, str], path: str) -> None:
        """Reads a class folder, or defers it if it is a link."""
        if os.path.islink(self._at(path)):
            self._links.append((key, path))
        else:
            self._walk(key, path, os.path.realpath(self._at(path)))

    def _walk(self, key: tuple[str, str], path: str, real: str) -> None:
        waiting = [(path, real)]
        while waiting:
            path, real = waiting.pop()
            if real in self._folders:
                self.left_out[LINKED] += 1
                continue
            self._folders.add(real)
            for entry in self._listed(path):
                inner, where = f"{path}/{entry.name}", os.path.join(real, entry.name)
                if _reserved(entry.name):
                    self._skip(entry.path, entry.name)
                elif entry.is_symlink():
                    self._links.append((key, inner))
                elif entry.is_dir():
                    waiting.append((inner, where))
                elif entry.is_file():
                    self._add(key, inner, where)
                else:
                    self.left_out[ODD] += 1

    def _listed(self, path: str) -> Iterator[os.DirEntry]:
        try:
            with os.scandir(self._at(path)) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.left_out[f"unreadable folder {path} ({error.strerror})"] += 1

    def _follow(self) -> None:
        """Reads the deferred links, which may lead to further links."""
        if self._links:
            self._files = {
                real for found in self._found.values() for real in found.values()
            }
        for key, path in self._links:  # grows during the loop
            real = os.path.realpath(self._at(path))
            if os.path.commonpath([real, self._real]) == real:
                self.left_out[ABOVE] += 1
            elif os.path.isdir(real):
                self._walk(key, path, real)
            elif os.path.isfile(real) or not os.path.exists(real):
                self._add(key, path, real)
            else:
                self.left_out[ODD] += 1

    def _add(self, key: tuple[str, str], path: str, real: str) -> None:
        if not is_picture(path.rpartition("/")[2]):
            self.left_out[_kind(path)] += 1
        elif self._files is not None and real in self._files:
            self.left_out[LINKED] += 1
        else:
            self._found[key][path] = real
            if self._files is not None:
                self._files.add(real)

    def _skip(self, path: str, name: str) -> None:
        if name.startswith("."):
            self.left_out["hidden"] += 1
        else:
            inside = sum(len(files) for _, _, files in os.walk(path))
            self.left_out[f"in {name}"] += inside

    def _at(self, path: str) -> str:
        return os.path.join(self._root, path)


def _is_dir(entry: os.DirEntry) -> bool:
    """Whether it is a folder; a link to itself or to what may not be seen is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _reserved(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return suffix if 1 < len(suffix) <= 12 else "without a known suffix"

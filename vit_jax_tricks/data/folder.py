"""`folder:PATH`: your own pictures, one folder for each class.

Either PATH/class/... (split here), or PATH/train/class/... with PATH/test/class/... or
PATH/val/class/...; folders inside a class count as part of it.
"""

import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from vit_jax_tricks.data.broken import find_broken
from vit_jax_tricks.data.source import Source
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.paths import absolute
from vit_jax_tricks.typing import Int


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
Files = dict[str, list[str]]  # class -> sorted paths relative to the root


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """Pictures on disk; `paths` are relative to `root`."""

    root: pathlib.Path
    paths: Sequence[str]
    labels: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return (self.root / self.paths[index]).read_bytes(), int(self.labels[index])


def open_folder(
    path: str, *, skip_broken: bool, split_seed: int, test_fraction: float
) -> Source:
    """Finds classes and pictures, checks that each decodes, and splits them.

    Raises:
      UserError: The folder is missing or no folder, a class is empty or too small for
        both splits, or pictures are broken and `skip_broken` is off.
    """
    root = _existing(path)
    parts = _given_split(root)
    found = {part: list_classes(root, folder) for part, folder in parts.items()}
    every = [
        name for files in found.values() for names in files.values() for name in names
    ]
    broken = find_broken(root, every)
    if broken:
        _report(root, broken, len(every), skip_broken)
        for part, files in found.items():
            found[part] = {
                name: [file for file in paths if file not in broken]
                for name, paths in files.items()
            }
    given = len(parts) == 2
    if given:
        train, test = found["train"], found["test"]
        _same_classes(root, train, test)
    else:
        _enough(root, found["all"], 2)
        train, test = split(found["all"], split_seed, test_fraction)
    for files in (train, test):
        _enough(root, files, 1)
    names = sorted(train)
    return Source(
        class_names=names,
        channels=3,
        size=None,
        train=_records(root, names, train),
        test=_records(root, names, test),
        split_given=given,
    )


def split(files: Files, seed: int, test_fraction: float) -> tuple[Files, Files]:
    """Sends a file to test where hash(seed, path) / 2^64 < test_fraction, by class.

    A file's side does not depend on the other files, so the split survives additions;
    only a class that would leave a side empty gives it the file nearest to the border.

    Raises:
      UserError: `test_fraction` is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise UserError(
            f"config.data.test_fraction={test_fraction}; more than 0 and less than 1 "
            "is expected, such as 0.2."
        )
    train, test = {}, {}
    for name, paths in files.items():
        ranked = sorted(paths, key=lambda path: _rank(path, seed))
        count = sum(_rank(path, seed) < test_fraction for path in paths)
        count = min(max(count, 1), len(paths) - 1)
        test[name], train[name] = sorted(ranked[:count]), sorted(ranked[count:])
    return train, test


def _rank(path: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}/{path}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def list_classes(root: pathlib.Path, folder: pathlib.Path) -> Files:
    """The pictures under each subfolder, hidden files and other suffixes left out.

    Raises:
      UserError: There are not at least two subfolders.
    """
    names = _subfolders(folder)
    if len(names) < 2:
        loose = sum(_is_picture(entry.name) for entry in os.scandir(folder))
        raise UserError(
            f"folder:{root} needs one subfolder for each of at least two classes; "
            f"{folder} holds {len(names)} subfolders and {loose} loose pictures."
        )
    return {name: _pictures(root, folder / name) for name in names}


def _existing(path: str) -> pathlib.Path:
    root = absolute(path, "folder:")
    if not root.exists():
        raise UserError(
            f"folder:{path} does not exist (looked in {root}). Give a "
            "folder with one subfolder of pictures for each class."
        )
    if not root.is_dir():
        raise UserError(
            f"folder:{path} is a file. Give the folder that holds one subfolder of "
            "pictures for each class."
        )
    return root


def _given_split(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where train and test are, or {"all": root}; a class may be called "train" too."""
    if not _subfolders(root / "train"):
        return {"all": root}
    for name in ("test", "val"):
        if _subfolders(root / name):
            return {"train": root / "train", "test": root / name}
    raise UserError(
        f"folder:{root} has classes in train/ but none in test/ or val/. "
        f"Add them, or type folder:{root / 'train'} to have it split."
    )


def _subfolders(folder: pathlib.Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _pictures(root: pathlib.Path, folder: pathlib.Path) -> list[str]:
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        relative = pathlib.Path(where).relative_to(root)
        found += [(relative / name).as_posix() for name in files if _is_picture(name)]
    return sorted(found)


def _same_classes(root: pathlib.Path, train: Files, test: Files) -> None:
    odd = sorted(set(train) ^ set(test))
    if odd:
        side = "test" if odd[0] in train else "train"
        raise UserError(
            f'folder:{root} has class "{odd[0]}" in one split only; add pictures of it '
            f"to the {side} folder or remove it ({len(odd)} classes differ)."
        )


def _enough(root: pathlib.Path, files: Files, least: int) -> None:
    small = [name for name, paths in files.items() if len(paths) < least]
    if small:
        need = "one for train, one for test" if least == 2 else "in train and in test"
        raise UserError(
            f'folder:{root}: class "{small[0]}" has {len(files[small[0]])} readable '
            f"pictures ({', '.join(SUFFIXES)}); at least {least} ({need}) expected. "
            f"Add pictures or remove the folder ({len(small)} classes too small)."
        )


def _report(
    root: pathlib.Path, broken: dict[str, str], total: int, skip_broken: bool
) -> None:
    listed = ", ".join(f"{path} ({why})" for path, why in list(broken.items())[:10])
    more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
    text = (
        f"{len(broken)} of {total} pictures in {root} cannot be read: {listed}{more}."
    )
    if not skip_broken:
        raise UserError(
            f"{text} Repair or remove them, or leave them out with "
            "--config.data.skip_broken=True."
        )
    print(f"Left out: {text}", file=sys.stderr)


def _records(root: pathlib.Path, names: list[str], files: Files) -> FileRecords:
    rows = sorted(
        (path, label) for label, name in enumerate(names) for path in files[name]
    )
    labels = np.array([label for _, label in rows], np.int32)
    return FileRecords(root, [path for path, _ in rows], labels)

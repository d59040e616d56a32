"""`folder:PATH`: your own pictures, one folder for each class.

Either PATH/class/... (split here), or PATH/train/class/... with PATH/test/class/... or
PATH/val/class/... (also training, testing, valid and validation, in upper or lower
case, and `training_set` with `test_set`; test takes precedence over val). Folders
inside a class belong to that class.
"""

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from vit_jax_tricks.console import printable, say
from vit_jax_tricks.data.broken import find_broken
from vit_jax_tricks.data.folder_layout import find_parts
from vit_jax_tricks.data.folder_scan import Files, Scan, is_picture, subfolders
from vit_jax_tricks.data.source import Source
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.paths import absolute
from vit_jax_tricks.typing import Int


DEEPEST = 5  # folders with one folder inside, that a message looks through


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

    def name(self, index: int) -> str:
        """Path of the picture, for messages."""
        return str(self.root / self.paths[index])


def open_folder(
    path: str, *, skip_broken: bool, split_seed: int, test_fraction: float
) -> Source:
    """Finds classes and pictures, checks that each one decodes, and splits them.

    Raises:
      UserError: the folder is missing or is not a folder, a class is empty or too small
        for both splits, or pictures are broken and `skip_broken` is off.
    """
    root = _existing(path)
    parts, notes = find_parts(root)
    for folder in parts.values():
        _several_classes(root, folder)
    scan = Scan(root)
    found = scan.classes(parts)
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
        _enough(root, found["all"], 2, scan)
        train, test = split(found["all"], split_seed, test_fraction)
        notes = [f"split here, {test_fraction:g} of it for the test", *notes]
    for files in (train, test):
        _enough(root, files, 1, scan)
    names = sorted(train)
    notes += _alike(names)
    source = Source(
        class_names=[printable(name) for name in names],
        channels=3,
        size=None,
        train=_records(root, names, train),
        test=_records(root, names, test),
        split_given=given,
    )
    _say(path, source, notes, scan.said())
    return source


def _say(path: str, source: Source, notes: list[str], left_out: str) -> None:
    """Reports in one or two lines how the folder was read."""
    counts = f"{len(source.train)} + {len(source.test)} pictures (train + test)"
    classes = f"{len(source.class_names)} classes"
    say(printable(f"folder:{path}: {classes}, {counts}; {'; '.join(notes)}."))
    if left_out:
        say(printable(f"folder:{path}: left out {left_out}."))


def _alike(names: list[str]) -> list[str]:
    """Says which classes differ in the case of their letters alone."""
    same = [
        [n for n in names if n.casefold() == c] for c in {*map(str.casefold, names)}
    ]
    several = sorted(group for group in same if len(group) > 1)
    return [f"{', '.join(group)} are read as {len(group)} classes" for group in several]


def split(files: Files, seed: int, test_fraction: float) -> tuple[Files, Files]:
    """Sends a file to test if hash(seed, path) / 2^64 < test_fraction, class by class.

    A file's side does not depend on the other files, so the split is stable when files
    are added. Only if a class would leave one side empty does that side get the file
    nearest to the threshold.

    Raises:
      UserError: `test_fraction` is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise UserError(
            f"config.data.test_fraction={test_fraction}; expected more than 0 and less "
            "than 1, such as 0.2."
        )
    train, test = {}, {}
    for name, paths in files.items():
        ranked = sorted(paths, key=lambda path: _rank(path, seed))
        count = sum(_rank(path, seed) < test_fraction for path in paths)
        count = min(max(count, 1), len(paths) - 1)
        test[name], train[name] = sorted(ranked[:count]), sorted(ranked[count:])
    return train, test


def _rank(path: str, seed: int) -> float:
    name = f"{seed}/{path}".encode(errors="surrogateescape")
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _several_classes(root: pathlib.Path, folder: pathlib.Path) -> None:
    names = subfolders(folder)
    if len(names) < 2:
        loose = sum(is_picture(entry.name) for entry in folder.iterdir())
        inner, below = folder, names
        for _ in range(DEEPEST):
            if len(below) == 1:
                inner /= below[0]
                below = subfolders(inner)
        hint = f" Did you mean folder:{inner}?" if len(below) > 1 else ""
        raise UserError(
            f"folder:{root} needs one subfolder for each of at least two classes; "
            f"{folder} holds {len(names)} subfolders and {loose} loose pictures.{hint}"
        )


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


def _same_classes(root: pathlib.Path, train: Files, test: Files) -> None:
    odd = sorted(set(train) ^ set(test))
    if odd:
        side = "test" if odd[0] in train else "train"
        raise UserError(
            f'folder:{root} has class "{odd[0]}" in one split only; add pictures of it '
            f"to the {side} folder or remove it ({len(odd)} classes differ)."
        )


def _enough(root: pathlib.Path, files: Files, least: int, scan: Scan) -> None:
    small = [name for name, paths in files.items() if len(paths) < least]
    if small:
        left_out = f" Left out were {scan.said()}." if scan.left_out else ""
        need = "one for train, one for test" if least == 2 else "in train and in test"
        raise UserError(
            f'folder:{root}: class "{small[0]}" has {len(files[small[0]])} readable '
            f"pictures; at least {least} ({need}) expected. Add pictures or remove the "
            f"folder ({len(small)} classes too small).{left_out}"
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
    print(printable(f"Left out: {text}"), file=sys.stderr)


def _records(root: pathlib.Path, names: list[str], files: Files) -> FileRecords:
    rows = sorted(
        (path, label) for label, name in enumerate(names) for path in files[name]
    )
    labels = np.array([label for _, label in rows], np.int32)
    return FileRecords(root, [path for path, _ in rows], labels)

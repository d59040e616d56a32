"""Finds which folders hold training and test pictures, and which are classes."""

import pathlib
import re

from vit_jax_tricks.data.folder_scan import subfolders
from vit_jax_tricks.errors import UserError


ROLES = {  # names of split folders, case-insensitive
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
SHORT = {"trn": "train", "tst": "test", "eval": "val", "dev": "val"}  # as words


def find_parts(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
    """The folders of train and test, or {"all": root}, and notes on surprising choices.

    A split folder holds class folders; one that holds pictures directly is a class
    named "train" or "test". Where all names contain the word of a split, such as
    `training_set` and `test_set`, and all hold the same classes, they are splits too.

    Raises:
      UserError: a split that is incomplete or ambiguous.
    """
    names = subfolders(root)
    inner = {name: subfolders(root / name) for name in names if _role(name)}
    deep = {
        role: [name for name, inside in inner.items() if inside and _role(name) == role]
        for role in ROLES
    }
    if not (deep["train"] and (deep["test"] or deep["val"])):
        deep = _by_words(root, names) or deep
    if not deep["train"]:
        return {"all": root}, _only_classes(root, names, inner)
    train, held = deep["train"], deep["test"] or deep["val"]
    for several in (train, held):
        if len(several) > 1:
            raise UserError(
                f"folder:{root} has {_listed(several)}, so it is unclear which is "
                "meant; remove or rename all but one."
            )
    if not held:
        raise UserError(
            f"folder:{root} has classes in {train[0]}/ but none in test/ or val/. "
            f"Add them, or type folder:{root / train[0]} to have it split."
        )
    unread = [name for name in names if name not in (train[0], held[0])]
    notes = [f"{train[0]}/ and {held[0]}/ as given"]
    notes += [f"not read: {_listed(unread)}"] if unread else []
    return {"train": root / train[0], "test": root / held[0]}, notes


def _only_classes(
    root: pathlib.Path, names: list[str], inner: dict[str, list[str]]
) -> list[str]:
    """Notes on classes named like a split; raises UserError if no reading is sound."""
    if inner and len(inner) == len(names):
        full = [name for name, inside in inner.items() if inside]
        if full:
            raise UserError(
                f"folder:{root} has classes in {_listed(full)} but none in train/. Add "
                f"them, or type folder:{root / full[0]} to have it split."
            )
        raise UserError(
            f"folder:{root} has {_listed(names)} without class folders inside; put the "
            "pictures of each class in a folder of its own, such as "
            f"{names[0]}/cat/ and {names[0]}/dog/."
        )
    split = [name for name in names if _split_inside(root / name)]
    if split and split == names:
        return [f"folders of a split inside classes, as in {names[0]}/, read as one"]
    for name, inside in inner.items():
        if set(inside) & set(names):
            raise UserError(
                f"folder:{root} has {_listed(names[:5])} side by side, but {name}/ has "
                f'a class "{min(set(inside) & set(names))}" too; move the other '
                f"classes to {root / 'train'}, or {name}/ elsewhere."
            )
    return [f'"{name}" is read as a class' for name in inner]


def _by_words(root: pathlib.Path, names: list[str]) -> dict[str, list[str]]:
    """The folders of each split by words of their names; nothing unless all have one.

    Their classes must be the same, lest they be classes themselves.
    """
    roles = {name: _word(name) for name in names}
    held = "test" in roles.values() or "val" in roles.values()
    if not held or "train" not in roles.values() or "" in roles.values():
        return {}
    first, *others = (subfolders(root / name) for name in names)
    if len(first) < 2 or any(other != first for other in others):
        return {}
    return {role: [n for n, said in roles.items() if said == role] for role in ROLES}


def _word(name: str) -> str:
    """The split that one of the name's words stands for: "test" of `seg_test`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    words = re.findall(r"[a-z]+", parted.casefold())
    found = {SHORT.get(word) or _role(word) for word in words} - {""}
    return found.pop() if len(found) == 1 else ""


def _split_inside(folder: pathlib.Path) -> bool:
    """Whether a class folder holds folders of a split."""
    found = {_role(name) for name in subfolders(folder)}
    return "train" in found and len(found - {""}) > 1


def _role(name: str) -> str:
    lower = name.casefold()
    return next((role for role, known in ROLES.items() if lower in known), "")


def _listed(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names)

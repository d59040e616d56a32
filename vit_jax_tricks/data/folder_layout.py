"""Finds which folders hold training and test pictures, and which are classes."""

import pathlib

from vit_jax_tricks.data.folder_scan import subfolders
from vit_jax_tricks.errors import UserError


ROLES = {  # names of split folders, case-insensitive
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}


def find_parts(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
    """The folders of train and test, or {"all": root}, and notes on surprising choices.

    A split folder holds class folders; one that holds pictures directly is a class
    named "train" or "test".

    Raises:
      UserError: a split that is incomplete or ambiguous.
    """
    names = subfolders(root)
    inner = {name: subfolders(root / name) for name in names if _role(name)}
    deep = {
        role: [name for name, inside in inner.items() if inside and _role(name) == role]
        for role in ROLES
    }
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
    for name, inside in inner.items():
        if set(inside) & set(names):
            raise UserError(
                f"folder:{root} has {_listed(names[:5])} side by side, but {name}/ has "
                f'a class "{min(set(inside) & set(names))}" too; move the other '
                f"classes to {root / 'train'}, or {name}/ elsewhere."
            )
    return [f'"{name}" is read as a class' for name in inner]


def _role(name: str) -> str:
    lower = name.casefold()
    return next((role for role, known in ROLES.items() if lower in known), "")


def _listed(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names)

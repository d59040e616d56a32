"""Reasons why families reject some regularisers, and LayerScale by depth."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.layers.functional.drop import layer_scale_start


# Why a family rejects a field, by field.
PAIRS = {
    "patch_drop_rate": "its positions relate every pair of patches, so no patch can be "
    "dropped; leave the field out, or use a deit_ name."
}
MAPS = {
    "patch_drop_rate": "it works on whole maps of patches, so none can be dropped; "
    "leave the field out, or use a deit_ name."
}
BY_DEPTH = "depth"  # value that selects CaiT's rule instead of a number


def check_refused(family: type[ImageModel], name: str, key: str) -> None:
    """Raises UserError, with the reason, for a field that a family rejects."""
    why = family.refuses.get(key)
    if why is not None:
        raise UserError(f"{name} takes no {key}: {why}")


def is_by_depth(key: str, value: Any) -> bool:
    """Whether a field requests LayerScale by CaiT's rule."""
    return key.endswith("init_values") and value == BY_DEPTH


def by_depth(family: type[ImageModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces each init_values of "depth" in `fields` by CaiT's number.

    The depth counts the blocks of all stages; missing fields have the family's
    defaults.
    """
    wanted = [key for key, value in fields.items() if is_by_depth(key, value)]
    if not wanted:
        return dict(fields)
    usual = {field.name: field.default for field in dataclasses.fields(family)}
    every = {**usual, **fields}
    blocks = next(every[n] for n in family.depth_fields if every[n] is not None)
    each = blocks if isinstance(blocks, tuple) else (blocks,)
    depth = sum(n if isinstance(n, int) else 1 for n in each)
    return {**fields, **dict.fromkeys(wanted, layer_scale_start(depth))}

"""Descriptions of a model's blocks: their paths, heads and hidden units."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Units:
    """The heads or the hidden units of a block.

    `place` is the path of the linear layer that takes the outputs of the `count` units,
    along the first axis of its kernel.
    """

    count: int
    place: str


@dataclasses.dataclass(frozen=True)
class BlockParts:
    """A block of a model and what is in it.

    Attributes:
      path: its path with unstacked blocks, `blocks_3` or `layers_1/blocks_0`.
      stage: the number of its stage.
      units: its "heads" and its "hidden" units; a block without some lacks the key.
    """

    path: str
    stage: int
    units: Mapping[str, Units]


def block_parts(
    path: str,
    fields: Mapping[str, Any],
    *,
    stage: int = 0,
    attention: str = "attn/proj",
    mlp: str = "mlp/fc2",
) -> BlockParts:
    """The parts of a block with the fields `num_heads` and `mlp_hidden`.

    `attention` and `mlp` are the paths, inside the block, of the layers after them.
    """
    heads, hidden = fields.get("num_heads", 0), fields.get("mlp_hidden", 0)
    units = {
        "heads": Units(heads, f"{path}/{attention}"),
        "hidden": Units(hidden, f"{path}/{mlp}"),
    }
    return BlockParts(path, stage, {k: v for k, v in units.items() if v.count})


def numbered(
    blocks: Iterable[Mapping[str, Any]],
    *,
    prefix: str = "",
    stage: int = 0,
    **places: str,
) -> list[BlockParts]:
    """The parts of `blocks_0`, `blocks_1`, ... below `prefix`, by their fields.

    `stage` and `places` are those of `block_parts`.
    """
    return [
        block_parts(f"{prefix}blocks_{i}", fields, stage=stage, **places)
        for i, fields in enumerate(blocks)
    ]

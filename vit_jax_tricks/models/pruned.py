"""Blocks of unequal size: the fields `block_heads` and `block_hidden` of a model.

`num_heads` and the MLP ratio stay those of the unpruned model, and with them the width
of a head and the scale of its logits. Families with stages nest the entries by stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_tricks.errors import UserError


# Heads and hidden units left in each block; a block without heads adds only the bias of
# its projection.
FIELDS = {"num_heads": "block_heads", "mlp_hidden": "block_hidden"}


def layers(
    model: Any, blocks: Sequence[Mapping[str, Any]], stage: int | None = None
) -> Sequence[Mapping[str, Any]]:
    """Sets `num_heads` and `mlp_hidden` of each block from the model's fields."""
    out = list(blocks)
    for argument, field in FIELDS.items():
        if (counts := getattr(model, field)) is None:
            continue
        counts = counts if stage is None else counts[stage]
        out = [{**block, argument: n} for block, n in zip(out, counts, strict=True)]
    return out


def check(
    model: Any, depths: int | tuple[int, ...], scanned: int | None = None
) -> None:
    """Raises UserError for fields of the wrong shape, or that `scan` cannot stack.

    `depths` is the number of blocks, in total or in each stage; a scan would stack the
    first `scanned` of them (None: all, stage by stage).
    """
    for field in FIELDS.values():
        if (counts := getattr(model, field)) is None:
            continue
        if isinstance(depths, int):
            stages, expected = [counts], f"{depths} blocks"
            sizes: tuple[int, ...] = (depths,)
        else:
            stages, expected = list(counts), f"depths={depths}"
            sizes = depths
        if tuple(map(len, stages)) != sizes:
            raise UserError(
                f"{field}={counts} does not fit {expected}; give one number for each."
            )
        least = 0 if field == "block_heads" else 1
        if any(count < least for stage in stages for count in stage):
            raise UserError(f"{field}={counts}: its entries must be {least} or more.")
        if model.scan and any(len(set(stage[:scanned])) > 1 for stage in stages):
            raise UserError(
                f"scan=True stacks equal blocks, and {field}={counts} makes them "
                "unequal; use scan=False."
            )

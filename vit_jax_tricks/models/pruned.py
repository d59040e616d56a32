"""Blocks of unequal size: the fields `block_heads` and `block_hidden` of a model.

`num_heads` and the MLP ratio stay those of the unpruned model, and with them the width
of a head and the scale of its logits. Families with stages nest the entries by stage.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from vit_jax_tricks.errors import UserError


# Heads and hidden units left in each block; a block without heads adds only the bias of
# its projection.
FIELDS = {"num_heads": "block_heads", "mlp_hidden": "block_hidden"}
KINDS = {"heads": "block_heads", "hidden": "block_hidden"}
LEAST = {"block_heads": 0, "block_hidden": 1}  # 1 for blocks without an MLP, not read


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
        least = LEAST[field]
        if any(count < least for stage in stages for count in stage):
            raise UserError(f"{field}={counts}: its entries must be {least} or more.")
        if model.scan and any(len(set(stage[:scanned])) > 1 for stage in stages):
            raise UserError(
                f"scan=True stacks equal blocks, and {field}={counts} makes them "
                "unequal; use scan=False."
            )


def with_units(
    model: Any, units: Mapping[str, Mapping[str, int]], *, nested: bool = False
) -> Any:
    """`ImageModel.with_units` of a family with both fields, `nested` by stage."""
    fields: dict[str, Any] = {}
    for kind, counts in units.items():
        field = KINDS[kind]
        stages = [
            tuple(counts.get(block.path, LEAST[field]) for block in blocks)
            for _, blocks in groupby(model.blocks(), key=lambda block: block.stage)
        ]
        fields[field] = tuple(stages) if nested else sum(stages, ())
    new = model.clone(**fields)
    new.check()
    return new


def with_width(model: Any, width: int, head_width: int) -> Any:
    """The model with another `embed_dim`, and unchanged heads and hidden units."""
    field, hidden = KINDS["hidden"], [b.units.get("hidden") for b in model.blocks()]
    counts = tuple(u.count if u else LEAST[field] for u in hidden)
    new = model.clone(embed_dim=width, head_dim=head_width, **{field: counts})
    new.check()
    return new


def whole(model: Any) -> str:
    """The reason why a family whose blocks are equal cannot be pruned."""
    return (
        f"{type(model).__name__} cannot be pruned: its blocks must be equal; use ViT, "
        "DeiT, Swin, LV-ViT, T2T-ViT or ConViT."
    )

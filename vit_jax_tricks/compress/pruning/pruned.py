"""Prunes a model: removes heads and hidden units to give a smaller one."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.compress.inputs import check_float
from vit_jax_tricks.compress.pruning.checks import check_groups, check_plan
from vit_jax_tricks.compress.pruning.costs import model_macs, unit_costs
from vit_jax_tricks.compress.pruning.groups import (
    KINDS,
    Group,
    Plan,
    find_groups,
    unit_counts,
    unrolled,
)
from vit_jax_tricks.compress.pruning.scoring import OF_THE_LOSS, check_criterion, score
from vit_jax_tricks.compress.pruning.select import select
from vit_jax_tricks.compress.pruning.width import keep_channels, narrowed
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.models.stacking import flatten, unflatten, unstacked
from vit_jax_tricks.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A pruned model with its weights, and a record of the pruning.

    Attributes:
      model, variables: the smaller model, with unstacked blocks.
      full_model: the larger model, with unstacked blocks.
      groups: the prunable groups of the larger model.
      scores: scores of each group; higher ones were kept.
      channels: kept channels of the residual stream; None means all.
      plan: kept indices of each group.
      costs: MACs of one head or hidden unit of each group.
      macs, full_macs: MACs of the smaller and of the larger model, for one image.
    """

    model: Any
    variables: Params
    full_model: Any
    groups: dict[str, Group]
    scores: dict[str, np.ndarray]
    plan: Plan
    channels: tuple[int, ...] | None
    costs: dict[str, int]
    macs: int
    full_macs: int


def prune(
    model: Any,
    variables: Params,
    batches: Iterable[tuple[Array, Array]],
    *,
    flops: Number = 0.6,
    criterion: str = "gradient",
    normalize: str = "layer",
    kinds: Sequence[str] = tuple(KINDS),
    width: Number = 1.0,
    min_heads: int = 1,
    min_hidden: int = 8,
    multiple: int = 8,
) -> Pruned:
    """Removes the least important heads and hidden units of a model.

    Args:
      model: of a family whose blocks may be unequal.
      variables: its weights, with blocks stacked or not.
      batches: pairs of normalised images [b, h, w, c] and labels [b] for the scores.
      flops: the largest fraction of the multiply-accumulates to keep.
      criterion: one of `CRITERIA`.
      normalize: "layer" compares scores within their layer and kind; "none" compares
        them across all layers, heads with hidden units, for criteria in units of the
        loss.
      kinds: the kinds that may be removed: "heads", "hidden".
      width: the fraction of the residual stream's channels to keep. Channels are
        removed first, then heads and hidden units as far as the budget still requires.
      min_heads, min_hidden: the minimum that every block keeps; min_heads=0 may remove
        a block's whole attention except the bias of its projection.
      multiple: hidden units are kept in multiples of this, to fit the tiles of matrix
        products.

    Raises: UserError for a quantised model, batches that are not pairs, invalid values,
      and a budget that cannot be reached.

    >>> import jax
    >>> from vit_jax_tricks import compress, create_model
    >>> sizes = dict(img_size=32, embed_dim=48, depth=2, num_heads=4, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> batches = [(images, jax.numpy.arange(8))]
    >>> small = compress.prune(model, variables, batches, flops=0.6)
    >>> small.macs <= 0.6 * small.full_macs
    True
    >>> logits, aux = small.model.apply(small.variables, images)
    >>> logits.shape
    (8, 10)
    """
    check_float("prune", model, variables)
    check_options(flops=flops, criterion=criterion, normalize=normalize, kinds=kinds)
    check_criterion(model, criterion)
    groups = find_groups(model, kinds)
    model, variables = unrolled(model), unstacked(variables)
    if width < 1 and iter(batches) is batches:
        batches = list(batches)  # they are read twice
    narrow, channels = keep_channels(model, variables, batches, width)
    full, costs = model_macs(model), unit_costs(narrow, groups)
    scores = score(model, variables, batches, groups, criterion)
    plan = select(
        groups,
        scores,
        costs,
        excess=model_macs(narrow) - int(flops * full),
        relative=normalize == "layer",
        min_heads=min_heads,
        min_hidden=min_hidden,
        multiple=multiple,
    )
    small = pruned_model(narrow, groups, plan)
    kept = shrink(narrowed(variables, model, channels), groups, plan)
    return Pruned(
        model=small,
        variables=kept,
        full_model=model,
        groups=groups,
        scores=scores,
        plan=plan,
        channels=channels,
        costs=costs,
        macs=model_macs(small),
        full_macs=full,
    )


def check_options(
    *, flops: Number, criterion: str, normalize: str, kinds: Sequence[str]
) -> None:
    """Raises UserError for invalid values."""
    if not 0 < flops <= 1:
        raise UserError(
            f"flops={flops}: the fraction to keep must be over 0 and at most 1."
        )
    if isinstance(kinds, str) or not kinds:
        raise UserError(
            f"kinds={kinds!r}: expected one or more of {tuple(KINDS)}, such as "
            '("heads",).'
        )
    if normalize not in ("layer", "none"):
        raise UserError(f'normalize="{normalize}" is unknown: "layer" or "none".')
    if normalize == "none" and criterion not in OF_THE_LOSS:
        raise UserError(
            f'normalize="none" compares heads with hidden units, but "{criterion}" '
            f"scores them in different units; use {' or '.join(OF_THE_LOSS)}."
        )


def pruned_model(model: Any, groups: Mapping[str, Group], plan: Plan) -> Any:
    """The model with as many heads and hidden units as a plan keeps.

    Raises: UserError for a plan that does not fit the groups.
    """
    check_plan("pruned_model", groups, plan)
    model = unrolled(model)
    left = {}
    for name, kept in plan.items():
        group = groups[name]
        if group.kind not in left:
            left[group.kind] = unit_counts(model, group.kind)
        left[group.kind][group.block] = len(kept)
    return model.with_units(left)


def shrink(variables: Params, groups: Mapping[str, Group], plan: Plan) -> Params:
    """The variables that a plan keeps, for `pruned_model`, with unstacked blocks.

    `qkv/kernel` [d, 3, g, h] and `proj/kernel` [g, h, d] keep some g; `fc1/kernel` [d,
    s] and `fc2/kernel` [s, d] keep some s; likewise their biases, position tables and
    gates. The biases after `proj` and `fc2`, and the norms, are unchanged. Attention
    without heads keeps only the bias of `proj`.

    Raises: UserError for groups of another model, and a plan that does not fit them.
    """
    check_plan("shrink", groups, plan)
    arrays = flatten(variables)
    params = {path.removeprefix("params/"): array for path, array in arrays.items()}
    check_groups("shrink", groups, params)
    for name, kept in plan.items():
        group = groups[name]
        if not len(kept):
            bias = f"params/{group.place}/bias"
            inside = f"params/{group.layer}/"
            arrays = {
                path: array
                for path, array in arrays.items()
                if path == bias or not path.startswith(inside)
            }
            continue
        for path, (axis, copies) in group.axes.items():
            index = np.concatenate(
                [np.asarray(kept) + i * group.size for i in range(copies)]
            )
            leaf = arrays[f"params/{path}"]
            arrays[f"params/{path}"] = jnp.take(leaf, index, axis)
    return unflatten(arrays)

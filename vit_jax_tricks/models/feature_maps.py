"""Feature maps between the blocks of a model, for detection and segmentation heads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from flax import traverse_util

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.layers.batch_norm import BatchNorm
from vit_jax_tricks.models.layers.gates import GATES
from vit_jax_tricks.models.stacking import unstack_blocks
from vit_jax_tricks.typing import Array, Float, Num, Params


# Collection of the outputs that `keep` stores, by the path of their module.
FEATURES = "features"


@dataclasses.dataclass(frozen=True)
class Level:
    """A feature map: its module, channels and stride.

    `module` is the path of the module whose output it is, such as `blocks_3` (the name
    without `scan`) or `layers_1`; `reduction` is the image's height over the map's.
    `prefix` is the number of tokens before the patches, and `normed` says whether the
    model's last norm fits the map.
    """

    module: str
    channels: int
    reduction: int
    prefix: int = 0
    normed: bool = True


def block_levels(
    depth: int, channels: int, reduction: int, prefix: int = 0
) -> tuple[Level, ...]:
    """The levels of a model whose blocks all have maps of one size."""
    return tuple(
        Level(f"blocks_{i}", channels, reduction, prefix) for i in range(depth)
    )


def keep(module: nn.Module, x: Float[Array, "b ..."]) -> None:
    """Stores the output of a bound module for `features`.

    Without the mutable collection "features" it adds nothing to the program.
    """
    if module.is_mutable_collection(FEATURES) and not module.is_initializing():
        module.put_variable(FEATURES, "out", x)


def features(
    model: Any,
    variables: Mapping[str, Any],
    images: Num[Array, "b h w c"],
    *,
    indices: int | Sequence[int] | None = None,
    norm: bool = False,
    prefix_tokens: bool = False,
    train: bool = False,
    rngs: Any = None,
    mutable: Sequence[str] = (),
) -> Any:
    """Feature maps [b, h, w, d] of a model, in the order of `model.feature_info`.

    Under jit, blocks after the last map are not computed, except those of a scan. With
    `scan` and `remat` the maps are the same. Equivalent to `forward_intermediates` in
    timm, whose maps are NCHW.

    Args:
      indices: levels of `feature_info` in ascending order, negative ones from the end;
        a number takes that many of the last levels, None all.
      norm: applies the model's last norm to each level that it fits.
      prefix_tokens: returns pairs of a map and the tokens [b, r, d] before its patches
        (class, distillation, registers; r = 0 without any).
      train: as in `model.apply`, with `rngs` and `mutable`; with the latter, returns
        the maps and the updated collections.

    Raises:
      UserError: if a level does not exist, or the tokens do not fill a map.
    """
    levels = model.feature_info
    taken = take(indices, len(levels))
    (_, aux), state = model.apply(
        variables, images, train=train, rngs=rngs, mutable=[FEATURES, *mutable]
    )
    if "mix_box" in aux:
        raise UserError(
            "features(train=True) would mix two images in each map; turn it off with "
            "model.clone(mix_token=False), or use_mix_token=False in VOLO."
        )
    kept = {**state}
    outputs: dict[str, Any] = traverse_util.flatten_dict(
        unstack_blocks(kept.pop(FEATURES)), sep="/"
    )
    found = []
    for level in (levels[i] for i in taken):
        x = outputs[f"{level.module}/out"]
        if norm and level.normed:
            x = _normed(model, variables, x, train)
        x, prefix = _split(model, level, x)
        found.append((x, prefix) if prefix_tokens else x)
    return (found, kept) if mutable else found


def bound_features(
    model: nn.Module, images: Num[Array, "b h w c"], *, train: bool, **options: Any
) -> Any:
    """`features` of a bound model, inside another module or `apply`.

    Raises: UserError for a model without variables.
    """
    if model.scope is None:
        raise UserError(
            "model.features has no variables here; use models.features(model, "
            'variables, images) or model.apply(variables, images, method="features").'
        )
    if model.is_initializing():
        model(images, train=train)
    unbound, variables = model.unbind()
    mutable = [c for c in variables if model.is_mutable_collection(c)]
    rngs = {n: model.make_rng(n) for n in ("dropout",) if model.has_rng(n)}
    found, updated = features(
        unbound,
        variables,
        images,
        train=train,
        rngs=rngs,
        mutable=mutable or ("batch_stats",),
        **options,
    )
    if not model.is_initializing():
        for collection in mutable:
            for name, value in updated.get(collection, {}).items():
                model.put_variable(collection, name, value)
    return found


def take(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """The levels that `indices` select among `count`, as numbers from 0."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise UserError(
                f"indices={indices} takes the last {indices} levels, and the model has "
                f"{count}; use 1 to {count}, or indices=({indices},) for one level."
            )
        return list(range(count - indices, count))
    try:
        given = [range(count)[i] for i in indices]
    except (IndexError, TypeError):
        raise UserError(
            f"indices={indices} must be numbers of levels from 0 to {count - 1}, or "
            f"from -{count} to -1 from the end."
        ) from None
    if not given:
        raise UserError("indices=() takes no level; use None for all of them.")
    if given != sorted(set(given)):
        raise UserError(
            f"indices={tuple(indices)} are not in ascending order; use "
            f"{tuple(sorted(set(given)))}."
        )
    return given


def _normed(
    model: Any, variables: Mapping[str, Any], x: Float[Array, "b ..."], train: bool
) -> Float[Array, "b ..."]:
    """Applies the model's last norm, whose parameters are `norm`, if it has one."""
    if model.last_norm is None:
        return x
    norm: Any = model.last_norm(parent=None)
    own: Params = {c: tree["norm"] for c, tree in variables.items() if "norm" in tree}
    if isinstance(norm, BatchNorm):  # its own update is in the forward pass
        x, _ = norm.apply(own, x, train, mutable=["batch_stats"])
        return x
    width = variables.get(GATES, {}).get("width")
    return norm.apply(own, x) if width is None else norm.apply(own, x, width)


def _split(
    model: Any, level: Level, x: Float[Array, "b ..."]
) -> tuple[Float[Array, "b h w d"], Float[Array, "b r d"]]:
    """Splits tokens into a map and the prefix tokens; a map has none."""
    b, d = x.shape[0], x.shape[-1]
    if x.ndim == 4:
        return x, x.reshape(b, -1, d)[:, :0]
    h, w = model.grid
    prefix, patches = x[:, : level.prefix], x[:, level.prefix :]
    if patches.shape[1] != h * w:
        raise UserError(
            f"{level.module} has {patches.shape[1]} patches of {h}x{w}, so no map; "
            "drop none, with train=False or model.clone(patch_drop_rate=0)."
        )
    return patches.reshape(b, h, w, d), prefix

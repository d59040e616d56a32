"""Narrows the residual stream: removes whole channels from every layer.

Unlike the removal of heads, this is not exact: LayerNorm's mean and variance are over
all channels, so removing one changes the others. The result is a model whose norms see
only the kept channels.
"""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.compress.inputs import pairs
from vit_jax_tricks.compress.pruning.checks import different, shown
from vit_jax_tricks.compress.pruning.groups import (
    block_sizes,
    parameter_shapes,
    resized,
    unrolled,
)
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.models.positions import parse
from vit_jax_tricks.models.stacking import flatten, unflatten
from vit_jax_tricks.typing import Array, Float, Params


MULTIPLE = 8  # channels are kept in multiples of this


def keep_channels(
    model: Any,
    variables: Params,
    batches: Iterable[tuple[Array, Array]],
    share: Number,
) -> tuple[Any, tuple[int, ...] | None]:
    """The narrower model, and the channels of most variance, ascending; None means all.

    Raises: UserError for a share outside (0, 1], and a model whose width is fixed.
    """
    if not 0 < share <= 1:
        raise UserError(
            f"width={share}: the fraction to keep must be over 0 and at most 1."
        )
    if share == 1:
        return model, None
    check_width(model)
    count = max(1, round(share * model.embed_dim / MULTIPLE)) * MULTIPLE
    scores = channel_scores(model, variables, batches)
    kept = np.sort(np.argsort(-scores, kind="stable")[:count])
    return with_width(model, len(kept)), tuple(map(int, kept))


def channel_scores(
    model: Any, variables: Params, batches: Iterable[tuple[Array, Array]]
) -> Float[np.ndarray, "d"]:
    """Variance of each channel over tokens and images, before every block.

    As a fraction of the total variance there, averaged over the blocks.

    Raises: UserError without a batch.
    """
    model = unrolled(model)

    @jax.jit
    def step(variables: Params, images: Array) -> Array:
        seen = []

        def watch(next_fun, args, kwargs, context):
            path = context.module.path
            if len(path) == 1 and path[0].startswith("blocks_"):
                wide = jnp.asarray(args[0], jnp.float32)
                variance = wide.var((0, 1))
                seen.append(variance / variance.sum())
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(watch):
            model.apply(variables, images, train=False)
        return jnp.stack(seen).mean(0)

    total, count = 0.0, 0
    for images, _ in pairs("prune", batches, model):
        total = total + np.asarray(step(variables, images), np.float64) * len(images)
        count += len(images)
    return np.asarray(total / count)


def check_width(model: Any) -> None:
    """Raises UserError for a model whose width is not set by its weights alone."""
    name = type(model).__name__
    why = None
    if hasattr(model, "depths") or not hasattr(model, "head_dim"):
        why = f"{name} ties its width to stages, heads or fixed positions"
    elif getattr(model, "stem", "patch") != "patch":
        why = f'stem="{model.stem}" has a fixed width'
    elif getattr(model, "global_pool", "token") in ("map", "prr"):
        why = f'global_pool="{model.global_pool}" cuts the width into heads'
    elif parse(getattr(model, "pos_embed", "learn")).absolute not in (None, "learn"):
        why = f'pos_embed="{model.pos_embed}" is computed from the width'
    if why is not None:
        raise UserError(f"{why}; prune only heads and hidden units, with width=1.")


def with_width(model: Any, width: int) -> Any:
    """The model with another `embed_dim`, and unchanged heads and hidden units."""
    shapes = parameter_shapes(model)
    sizes = {"hidden": block_sizes(model, "hidden", shapes)}
    dim = model.head_dim or model.embed_dim // model.num_heads
    return resized(model.clone(embed_dim=width, head_dim=dim), sizes)


def narrowed(variables: Params, model: Any, channels: tuple[int, ...] | None) -> Params:
    """The variables of `with_width(model, len(channels))`, with unstacked blocks.

    Raises: UserError for channels that the model does not have.
    """
    arrays = flatten(variables)
    model = unrolled(model)
    if channels is not None:
        if not different(np.asarray(channels), model.embed_dim):
            raise UserError(
                f"narrowed: channels is {shown(np.asarray(channels))}; expected "
                f"different whole numbers from 0 to {model.embed_dim - 1}."
            )
        before = parameter_shapes(model)
        after = parameter_shapes(with_width(model, model.embed_dim + MULTIPLE))
        index = np.asarray(channels)
        for path, shape in before.items():
            for axis, (n, m) in enumerate(zip(shape, after[path], strict=True)):
                if n != m:
                    leaf = arrays[f"params/{path}"]
                    arrays[f"params/{path}"] = jnp.take(leaf, index, axis)
    return unflatten(arrays)

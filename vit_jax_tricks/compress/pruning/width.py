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
from vit_jax_tricks.compress.pruning.groups import parameter_shapes, unrolled
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.inputs import Number
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
    count = max(1, round(share * model.width / MULTIPLE)) * MULTIPLE
    scores = channel_scores(model, variables, batches)
    kept = np.sort(np.argsort(-scores, kind="stable")[:count])
    return model.with_width(len(kept)), tuple(map(int, kept))


def channel_scores(
    model: Any, variables: Params, batches: Iterable[tuple[Array, Array]]
) -> Float[np.ndarray, "d"]:
    """Variance of each channel over tokens and images, before every block.

    As a fraction of the total variance there, averaged over the blocks.

    Raises: UserError without a batch.
    """
    model = unrolled(model)
    blocks = {block.path for block in model.blocks()}

    @jax.jit
    def step(variables: Params, images: Array) -> Array:
        seen = []

        def watch(next_fun, args, kwargs, context):
            if "/".join(context.module.path) in blocks:
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
    if (why := model.fixed_width()) is not None:
        raise UserError(f"{why}; prune only heads and hidden units, with width=1.")


def narrowed(variables: Params, model: Any, channels: tuple[int, ...] | None) -> Params:
    """The variables of `model.with_width(len(channels))`, with unstacked blocks.

    Raises: UserError for channels that the model does not have.
    """
    arrays = flatten(variables)
    model = unrolled(model)
    if channels is not None:
        if not different(np.asarray(channels), model.width):
            raise UserError(
                f"narrowed: channels is {shown(np.asarray(channels))}; expected "
                f"different whole numbers from 0 to {model.width - 1}."
            )
        before = parameter_shapes(model)
        after = parameter_shapes(model.with_width(model.width + MULTIPLE))
        index = np.asarray(channels)
        for path, shape in before.items():
            for axis, (n, m) in enumerate(zip(shape, after[path], strict=True)):
                if n != m:
                    leaf = arrays[f"params/{path}"]
                    arrays[f"params/{path}"] = jnp.take(leaf, index, axis)
    return unflatten(arrays)

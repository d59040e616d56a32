"""Finds the origin of the first NaN or infinity of a step."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.param_names import path_str
from vit_jax_tricks.typing import Array, Float, Params


REST = "the loss or the gradient"


def first_nonfinite(
    model: nn.Module, variables: Params, images: Float[Array, "b h w c"]
) -> str:
    """Names the first non-finite value: images, a parameter, or a module.

    Modules are checked in the order in which they run, by an uncompiled forward pass
    that captures every module's output. If all outputs are finite, the cause is in the
    loss or in the gradient.
    """
    if not jnp.isfinite(images).all():
        return "the images"
    if named := _first("parameter", variables):
        return named
    found: list[str] = []

    def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = next_fun(*args, **kwargs)
        arrays = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array)]
        if not found and not all(bool(jnp.isfinite(x).all()) for x in arrays):
            found.append("/".join(context.module.path) or type(model).__name__)
        return out

    with nn.intercept_methods(watch):
        model.apply(variables, images, train=False)
    return f"module {found[0]}" if found else REST


def first_input(variables: Params, batch: Mapping[str, Array]) -> str:
    """Names the first non-finite input or parameter, without running a model."""
    return _first("input", batch) or _first("parameter", variables) or REST


def _first(kind: str, tree: Any) -> str | None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.isfinite(leaf).all():
            return f"{kind} {path_str(path)}"
    return None

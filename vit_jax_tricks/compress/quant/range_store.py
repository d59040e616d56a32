"""Stores ranges among the parameters, `variables["params"]["quant"]`, and in files.

Optimisers, averages, checkpoints and shardings then see one tree. A learned step is
stored as its logarithm, so that updates scale it and it stays positive.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from vit_jax_tricks.compress.quant.places import layer_names
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import parameters
from vit_jax_tricks.typing import Array


KEY = "quant"
# scale or log_scale, and zero_point if there is one: arrays, or only their shapes.
Leaves = Mapping[str, Any]


def packed(spec: Spec, found: Range) -> dict[str, Array]:
    """Converts a range to parameters, float32."""
    leaves = {}
    if found.zero_point is not None:
        leaves["zero_point"] = jnp.asarray(found.zero_point).astype(jnp.float32)
    scale = jnp.asarray(found.scale).astype(jnp.float32)
    if spec.learned:
        tiny = jnp.finfo(jnp.float32).tiny
        return {"log_scale": jnp.log(jnp.maximum(scale, tiny)), **leaves}
    return {"scale": scale, **leaves}


def unpacked(spec: Spec, leaves: Leaves) -> Range:
    """Inverse of `packed`; zero points are integers unless they are learned."""
    zero_point = leaves.get("zero_point")
    if spec.learned:
        return Range(jnp.exp(leaves["log_scale"]), zero_point)
    if zero_point is None:
        return Range(leaves["scale"])
    return Range(leaves["scale"], jnp.round(zero_point).astype(jnp.int32))


def without_ranges(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as the model itself takes them."""
    params = {k: v for k, v in variables["params"].items() if k != KEY}
    return {**variables, "params": params}


def stored(variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The stored leaves of each place that has a stored range."""
    kept: dict[str, dict[str, Any]] = {}
    flat: Any = traverse_util.flatten_dict(variables["params"].get(KEY, {}), sep="/")
    for path, value in flat.items():
        name, _, leaf = path.rpartition("/")
        kept.setdefault(name, {})[leaf] = value
    return kept


def with_stored(
    variables: Mapping[str, Any], kept: Mapping[str, Leaves]
) -> dict[str, Any]:
    """Inverse of `stored`."""
    flat = {
        f"{name}/{leaf}": value
        for name, leaves in kept.items()
        for leaf, value in leaves.items()
    }
    params = without_ranges(variables)["params"]
    nested = traverse_util.unflatten_dict(flat, sep="/")
    return {**variables, "params": {**params, KEY: nested}}


def by_layer(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Stored leaves by path, `blocks_0/attn/qkv/input/scale`, with unstacked blocks."""
    weights = parameters(without_ranges(variables)["params"])
    flat = {}
    for name, leaves in stored(variables).items():
        group = layer_names(name, weights)
        for i, layer in enumerate(group):
            for leaf, value in leaves.items():
                flat[f"{layer}/{leaf}"] = value if name == layer else value[i]
    return flat


def from_layers(like: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, Any]:
    """The variables `like` with the leaves of `by_layer`, stacked as in `like`.

    Raises: UserError unless both have the same places and shapes.
    """
    weights = parameters(without_ranges(like)["params"])
    again = "calibrate with the same model and rules."
    kept: dict[str, dict[str, Any]] = {}
    used = set()
    for name, leaves in stored(like).items():
        group = layer_names(name, weights)
        for leaf, old in leaves.items():
            paths = [f"{layer}/{leaf}" for layer in group]
            if absent := [path for path in paths if path not in layers]:
                raise UserError(f"there is no stored range {absent[0]}: {again}")
            used |= set(paths)
            parts = [jnp.asarray(layers[path]) for path in paths]
            shape = old.shape if name in group else old.shape[1:]
            for path, part in zip(paths, parts, strict=True):
                if part.shape != shape:
                    raise UserError(
                        f"the stored range {path} is of shape {part.shape}, but the "
                        f"model's is {shape}: {again}"
                    )
            value = parts[0] if name in group else jnp.stack(parts)
            kept.setdefault(name, {})[leaf] = value
    if unused := sorted(layers.keys() - used):
        raise UserError(f"the stored range {unused[0]} belongs to no place: {again}")
    return with_stored(like, kept)

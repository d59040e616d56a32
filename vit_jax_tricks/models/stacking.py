"""Conversion of block parameters between one tree per block and one stacked tree."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax_tricks.typing import Params


def stack_blocks(params: Params, name: str = "blocks", first: int = 0) -> Params:
    """Stacks parameters for `scan=True`: `blocks_0`, ... become `blocks` [l, ...].

    Works at every level of the tree, from block `first` on, as far as the blocks have
    the same parameters and shapes; the others are left alone. A tree with nothing to
    stack is returned unchanged.
    """
    blocks = _numbered(params, name)
    rest = {
        k: stack_blocks(v, name, first) if isinstance(v, dict) else v
        for k, v in params.items()
        if k not in blocks.values()
    }
    run = first
    while run in blocks and _signature(params[blocks[run]]) == _signature(
        params[blocks[first]]
    ):
        run += 1
    stacked = [params[blocks[i]] for i in range(first, run)]
    rest |= {key: params[key] for i, key in blocks.items() if not first <= i < run}
    if not stacked:
        return rest
    return rest | {name: jax.tree.map(_stack, *stacked)}


def unstack_blocks(
    params: Params, name: str = "blocks", numbering: Params | None = None
) -> Params:
    """Inverse of `stack_blocks`: `blocks` [l, ...] becomes `blocks_0`, ...

    Works at every level of the tree; one that is not stacked is returned unchanged.
    Numbering starts at the first free number in the tree or in `numbering`, if given:
    the parameters, for statistics that only some blocks have.
    """
    numbering = params if numbering is None else numbering
    rest = {
        k: unstack_blocks(v, name, numbering.get(k, {})) if isinstance(v, dict) else v
        for k, v in params.items()
        if k != name
    }
    if name not in params:
        return rest
    depth, first = _stacked(params, numbering, name)
    return rest | {
        f"{name}_{first + i}": jax.tree.map(lambda leaf, i=i: leaf[i], params[name])
        for i in range(depth)
    }


def stack_like(arrays: Params, like: Params, name: str = "blocks") -> Params:
    """Stacks the blocks that are stacked in `like`, at every level of the tree.

    Each of those blocks needs the same arrays; nothing is stacked if none has any.
    """
    out = {
        key: stack_like(value, like.get(key, {}), name)
        if isinstance(value, dict)
        else value
        for key, value in arrays.items()
    }
    if name not in like:
        return out
    depth, first = _stacked(like, like, name)
    found = [out.pop(f"{name}_{first + i}", {}) for i in range(depth)]
    return out | {name: jax.tree.map(_stack, *found)} if any(found) else out


def flatten(variables: Params) -> dict[str, Any]:
    """Variables as path -> leaf, blocks unstacked: `params/blocks_0/norm1/scale`."""
    params = variables.get("params")
    separate = {k: unstack_blocks(v, numbering=params) for k, v in variables.items()}
    return traverse_util.flatten_dict(separate, sep="/")


def unstacked(variables: Params) -> Params:
    """The variables with unstacked blocks."""
    return unflatten(flatten(variables))


def unflatten(arrays: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`, with unstacked blocks."""
    return traverse_util.unflatten_dict(dict(arrays), sep="/")


def _stacked(params: Params, numbering: Params, name: str) -> tuple[int, int]:
    """How many blocks `params` has stacked, and the number of the first one."""
    separate = _numbered(numbering, name)
    first = next(i for i in range(len(separate) + 1) if i not in separate)
    return jax.tree.leaves(params[name])[0].shape[0], first


def _stack(*leaves: Any) -> Any:
    """The leaves as one array. NumPy's stay on the host, where nothing is compiled."""
    host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    return (np if host else jnp).stack(leaves)


def _numbered(params: Params, name: str) -> dict[int, str]:
    """Keys `blocks_0`, `blocks_1`, ... by number."""
    matches = (re.fullmatch(rf"{name}_(\d+)", key) for key in params)
    return {int(match[1]): match[0] for match in matches if match}


def _signature(block: Params) -> tuple:
    leaves, structure = jax.tree.flatten(block)
    return structure, [leaf.shape for leaf in leaves]

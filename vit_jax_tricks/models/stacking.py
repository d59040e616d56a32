"""Between the layouts of the blocks: one tree for each block, or one stacked tree."""

import re

import jax
import jax.numpy as jnp

from vit_jax_tricks.typing import Params


def stack_blocks(params: Params, name: str = "blocks") -> Params:
    """Parameters for `scan=True`: `blocks_0`, `blocks_1`, ... become `blocks` [l, ...].

    A tree that is already stacked is returned as it is.
    """
    keys = [k for k in params if re.fullmatch(rf"{name}_\d+", k)]
    if not keys:
        return params
    blocks = [params[f"{name}_{i}"] for i in range(len(keys))]
    rest = {k: v for k, v in params.items() if k not in keys}
    return rest | {name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unstack_blocks(params: Params, name: str = "blocks") -> Params:
    """The inverse of `stack_blocks`: `blocks` [l, ...] becomes `blocks_0`, ...

    A tree that is not stacked is returned as it is.
    """
    if name not in params:
        return params
    depth = jax.tree.leaves(params[name])[0].shape[0]
    rest = {k: v for k, v in params.items() if k != name}
    return rest | {
        f"{name}_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params[name])
        for i in range(depth)
    }

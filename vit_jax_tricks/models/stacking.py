"""Between the layouts of the blocks: one tree for each block, or one stacked tree."""

import re

import jax
import jax.numpy as jnp

from vit_jax_tricks.typing import Params


def stack_blocks(params: Params, name: str = "blocks") -> Params:
    """Parameters for `scan=True`: `blocks_0`, `blocks_1`, ... become `blocks` [l, ...].

    At every level of the tree, as far as the blocks from 0 on have the same parameters
    and shapes; the later ones stay. Nothing changes where nothing is to be stacked.
    """
    keys = [k for k in params if re.fullmatch(rf"{name}_\d+", k)]
    rest = {
        k: stack_blocks(v, name) if isinstance(v, dict) else v
        for k, v in params.items()
        if k not in keys
    }
    if not keys:
        return rest
    blocks = [params[f"{name}_{i}"] for i in range(len(keys))]
    first = _signature(blocks[0])
    run = next((i for i, b in enumerate(blocks) if _signature(b) != first), len(blocks))
    later = {f"{name}_{i}": blocks[i] for i in range(run, len(blocks))}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks[:run])
    return rest | later | {name: stacked}


def unstack_blocks(params: Params, name: str = "blocks") -> Params:
    """The inverse of `stack_blocks`: `blocks` [l, ...] becomes `blocks_0`, ...

    At every level of the tree; one that is not stacked is returned as it is.
    """
    rest = {
        k: unstack_blocks(v, name) if isinstance(v, dict) else v
        for k, v in params.items()
        if k != name
    }
    if name not in params:
        return rest
    depth = jax.tree.leaves(params[name])[0].shape[0]
    return rest | {
        f"{name}_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params[name])
        for i in range(depth)
    }


def _signature(block: Params) -> tuple:
    leaves, structure = jax.tree.flatten(block)
    return structure, [leaf.shape for leaf in leaves]

"""Names of parameters: the path of each leaf, and what the leaf is.

A parameter's name is its path, `blocks_3/attn/qkv/kernel`. Blocks stacked by scan
(`blocks/attn/qkv/kernel`, layers first) count as the parameters that they hold, so that
rules on names do not depend on the layout.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One leaf, with one name per layer (a single one unless stacked).

    `inputs` and `outputs` are the axes of the leaf that a matrix product contracts and
    produces; the remaining axes hold separate matrices.
    """

    path: str
    shape: tuple[int, ...]
    stacked: bool
    names: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parameters(params: Any) -> dict[str, Parameter]:
    """Describes every leaf of a parameter tree, by path."""
    shapes = {path: tuple(leaf.shape) for path, leaf in by_path(params).items()}
    table = {}
    for path, shape in shapes.items():
        names = _names(path, shape, shapes)
        stacked = names != (path,)
        inputs, outputs = _axes(path, len(shape), int(stacked))
        table[path] = Parameter(path, shape, stacked, names, inputs, outputs)
    return table


def by_path(params: Any) -> dict[str, Any]:
    """The leaves of nested parameters, `blocks_0/mlp/fc1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_str(path): leaf for path, leaf in leaves}


def path_str(path: Any) -> str:
    """Formats a JAX key path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _names(
    path: str, shape: tuple[int, ...], paths: Collection[str]
) -> tuple[str, ...]:
    """The parameters in a leaf; stacked blocks are numbered from the first free one."""
    stack = re.fullmatch(r"(.*/)?blocks/(.*)", path)
    if stack is None:
        return (path,)
    before, after = stack[1] or "", stack[2]
    first = itertools.count()
    start = next(
        i for i in first if not any(p.startswith(f"{before}blocks_{i}/") for p in paths)
    )
    numbers = range(start, start + shape[0])
    return tuple(f"{before}blocks_{i}/{after}" for i in numbers)


def _axes(path: str, ndim: int, first: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Contracted and produced axes; for anything but a kernel, all axes and none."""
    parts = path.split("/")
    axes = tuple(range(first, ndim))
    if parts[-1] != "kernel" or len(axes) < 2:
        return axes, ()
    module = parts[-2] if len(parts) > 1 else ""
    if module in ("qkv", "kv", "qk") and len(axes) == 4:  # [d, 3, g, h]
        return axes[:1], axes[2:]
    if len(axes) == 3 and module not in ("proj", "attn_out_proj"):  # [d, g, h]
        return axes[:1], axes[1:]
    return axes[:-1], axes[-1:]  # [d, d], [g, h, d] and convolutions

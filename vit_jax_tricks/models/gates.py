"""The collection "gates" of a model: a sub-network as arrays.

`model.apply({**variables, "gates": gates}, images)` runs the sub-network. Gates are
found by asking the model, and are set by path or from an architecture. Everything is an
array operation, so that a compiled program takes the architecture as an argument. What
each gate does is said in `layers.gates`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_tricks.checks import given
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models.layers.gates import GATES
from vit_jax_tricks.models.stacking import flatten, stack_like, unflatten
from vit_jax_tricks.typing import Array, Float, Integer, Params


Counts = Integer[Array, "..."] | Sequence[int] | int


def gate_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every gate by path, as with unstacked blocks: `blocks_3/attn/heads`.

    In the order of the blocks.
    """
    flat = jax.eval_shape(flatten, {GATES: _tree(model)})
    shapes = {path.removeprefix(f"{GATES}/"): leaf.shape for path, leaf in flat.items()}
    return {path: shapes[path] for path in sorted(shapes, key=_natural)}


def nested_gates(model: Any, gates: Mapping[str, Float[Array, "..."]]) -> Params:
    """The collection "gates" from gates by path, such as `blocks_3/attn/heads` [g].

    It is nested, and stacked, as the parameters of the model are. Each gate is for all
    images, or has them on an additional first axis. Gates without a path here are open.

    Raises: UserError for a path that the model lacks.
    """
    shapes = gate_shapes(model)
    for path in gates:
        if path not in shapes:
            raise UserError(
                f'gates has "{path}", but {type(model).__name__} has no such gate.'
                f"{nearest(path, shapes)}"
            )
    if not model.scan:
        return unflatten(gates)
    return stack_like(unflatten(_same_in_blocks(gates, shapes)), _tree(model))


def architecture_gates(
    model: Any,
    *,
    width: Counts | None = None,
    depth: Counts | None = None,
    heads: Counts | None = None,
    hidden: Counts | None = None,
) -> Params:
    """The collection "gates" of an architecture, which takes the leading parts.

    This is the slicing of AutoFormer's supernets. None keeps everything.

    Args:
      model: a model that is as large as the largest architecture.
      width: number of channels of the residual stream, [] or [b].
      depth: number of blocks, [] or [b].
      heads: number of heads of each block, [l] or [b, l], or [] for all alike.
      hidden: number of hidden units of each block, likewise.

    Raises: UserError for what the model cannot vary, and other shapes.

    Source: Chen et al., 2021 (AutoFormer), arXiv:2107.00651.

    >>> import jax
    >>> from vit_jax_tricks import create_model
    >>> from vit_jax_tricks.models.gates import architecture_gates
    >>> sizes = dict(img_size=32, embed_dim=48, depth=3, num_heads=4, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> @jax.jit
    ... def logits(variables, depth, heads):
    ...     gates = architecture_gates(model, depth=depth, heads=heads)
    ...     return model.apply({**variables, "gates": gates}, images)[0]
    >>> two = logits(variables, 2, jax.numpy.asarray([4, 3, 3]))
    >>> three = logits(variables, 3, jax.numpy.asarray([4, 4, 2]))
    >>> logits._cache_size()
    1
    """
    blocks = model.blocks()
    if width is not None and (why := model.fixed_width()):
        raise UserError(f"architecture_gates: {why}; leave out width.")
    if depth is not None and len({block.stage for block in blocks}) > 1:
        raise UserError(
            f"architecture_gates: {type(model).__name__} has stages, so depth does not "
            "say which of its blocks are skipped; use nested_gates."
        )
    shapes, gates = gate_shapes(model), {}
    if width is not None:
        count = _counts("width", width, None)
        paths = [p for p in shapes if p.rpartition("/")[2] == "width"]
        gates |= {path: leading(count, model.width) for path in paths}
    if depth is not None:
        alive = leading(_counts("depth", depth, None), len(blocks))
        gates |= {f"{b.path}/depth": alive[..., i] for i, b in enumerate(blocks)}
    for kind, sizes in {"heads": heads, "hidden": hidden}.items():
        if sizes is None:
            continue
        counts = _counts(kind, sizes, len(blocks))
        for i, block in enumerate(blocks):
            if kind in block.units:
                layer = block.units[kind].place.rpartition("/")[0]
                branch = re.compile(rf"{layer}(_\d+)?/{kind}")  # parallel ones too
                for path in filter(branch.fullmatch, shapes):
                    gates[path] = leading(counts[..., i], *shapes[path])
    return nested_gates(model, gates)


def leading(count: Integer[Array, "*b"], size: int) -> Float[Array, "*b s"]:
    """Gates of which the first `count` are 1 and the others 0; s = `size`."""
    count = jnp.asarray(count)[..., None]
    places = jnp.arange(size).reshape(*(1,) * (count.ndim - 1), size)
    return (places < count).astype(jnp.float32)


@functools.lru_cache(maxsize=64)
def _tree(model: Any) -> Params:
    """The shape of every gate, nested and stacked as in the model."""
    model = model.clone(hooks=())  # with hooks, stacked blocks declare nothing
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    key = {"params": jax.random.key(0)}
    declare = functools.partial(model.apply, {}, train=False, rngs=key, mutable=True)
    return jax.eval_shape(declare, images)[1].get(GATES, {})


def _natural(path: str) -> list[Any]:
    """A sorting key that puts block 2 before block 10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", path)
    ]


def _same_in_blocks(
    gates: Mapping[str, Float[Array, "..."]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Float[Array, "..."]]:
    """Gives all blocks the gates that one of them has, open, and as many axes."""
    peers: dict[str, list[str]] = {}
    for path in shapes:
        peers.setdefault(re.sub(r"\bblocks_\d+/", "blocks/", path), []).append(path)
    full = {}
    for paths in peers.values():
        some = {path: jnp.asarray(gates[path]) for path in paths if path in gates}
        axes = [g.shape[: g.ndim - len(shapes[path])] for path, g in some.items()]
        images = np.broadcast_shapes(*axes)
        for path in paths if some else ():
            gate = some.get(path, jnp.ones((*images, *shapes[path]), jnp.float32))
            full[path] = jnp.broadcast_to(gate, (*images, *shapes[path]))
    return full


def _counts(name: str, value: Counts, blocks: int | None) -> Integer[Array, "..."]:
    """The counts as an array, [] or [b], or [l] or [b, l] if `blocks` is given."""
    counts = jnp.asarray(value)
    right = counts.ndim < 2
    if blocks is not None:
        if not counts.ndim:
            counts = jnp.broadcast_to(counts, (blocks,))
        right = counts.ndim < 3 and counts.shape[-1] == blocks
    if not right or not jnp.issubdtype(counts.dtype, jnp.integer):
        want = "[] or [b]" if blocks is None else f"[], [{blocks}] or [b, {blocks}]"
        raise UserError(
            f"architecture_gates: {name} is {given(counts)}; expected integers {want}."
        )
    return counts

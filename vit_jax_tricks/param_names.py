"""Names of parameters: the path of each leaf, what the leaf is, and what it is for.

A parameter's name is its path, `blocks_3/attn/qkv/kernel`. Blocks stacked by scan
(`blocks/attn/qkv/kernel`, layers first) count as the parameters that they hold, so that
rules on names do not depend on the layout.

`ParameterRoles` tell the optimiser, the mesh and quantisation what a name says.
`GENERAL` are those of a plain transformer and of the layers in `models.layers`; a
family adds its own in its file.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax

from vit_jax_tricks.errors import UserError


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


@dataclasses.dataclass(frozen=True)
class ParameterRoles:
    """What the names of a model's parameters and places say.

    Patterns are regular expressions for whole names, with unstacked blocks.

    For layer-wise learning rates, layers are numbered from the stem, 0, through the
    blocks, 1 to L, to the head, L + 1. A parameter that no pattern matches belongs to
    the head.

    Attributes:
      no_decay: parameters that never decay, whatever their rank: Flax's attention
        biases, for example, are matrices.
      stem: parameters before the blocks.
      blocks: one pattern for each run of blocks, in order. Its groups are the numbers
        that tell layers apart, such as stage and block.
      between: parameters that belong to the first block of a stage of `blocks`; the
        groups are the leading numbers of that block.
      last: parameters whose layers end at L beside the last blocks: the norm, or blocks
        of a class token, numbered by their groups.
      tensor: (pattern, dimension from the right) of parameters that the mesh axis
        `tensor` splits. A pattern is searched for in the path, so it also finds the
        moments and the moving average of a parameter.
      in_float: places that quantisation leaves in float, by any module of their path,
        with what is inside it.
    """

    no_decay: tuple[str, ...]
    stem: tuple[str, ...]
    blocks: tuple[str, ...]
    between: tuple[str, ...]
    last: tuple[str, ...]
    tensor: tuple[tuple[str, int], ...]
    in_float: tuple[str, ...]

    def also(self, **more: Any) -> "ParameterRoles":
        """The roles with more patterns, each tuple after those of the same name."""
        own = {name: (*getattr(self, name), *given) for name, given in more.items()}
        return dataclasses.replace(self, **own)

    def instead(self, **other: Any) -> "ParameterRoles":
        """The roles with other tuples of patterns."""
        return dataclasses.replace(self, **other)

    @property
    def float_places(self) -> str:
        """One pattern for the whole names of all `in_float` places."""
        return rf"(.*/)?({'|'.join(self.in_float)})(/.*)?"

    def decays(self, name: str, ndim: int) -> bool:
        """Whether weight decay applies to a parameter."""
        return ndim > 1 and not _first(self.no_decay, name)

    def in_block(self, name: str) -> bool:
        """Whether a parameter lies inside a block."""
        return _first((*self.blocks, *self.last), name) is not None

    def layers(self, names: Sequence[str]) -> tuple[dict[str, int], int]:
        """The layer of each parameter, from 0 to L + 1, and L.

        Raises: UserError for a model without blocks, and for a numbered module that no
          pattern places.
        """
        inner = {name: key for name in names if (key := self._inner(name))}
        if not inner:
            raise UserError(
                "layer_decay needs a model with blocks (blocks_0, ...); for another "
                "model, give its roles=model.roles."
            )
        order = {key: i + 1 for i, key in enumerate(sorted(set(inner.values())))}
        late = {name: found for name in names if (found := _first(self.last, name))}
        ends = {key: [] for key, _ in late.values()}
        for key, numbers in sorted(set(late.values())):
            ends[key].append(numbers)

        def layer(name: str) -> int:
            if name in inner:
                return order[inner[name]]
            if name in late:
                key, numbers = late[name]
                return len(order) - len(ends[key]) + 1 + ends[key].index(numbers)
            if _first(self.stem, name):
                return 0
            if re.match(r"\w+_\d+/", name):
                raise UserError(
                    f"layer_decay does not know the layer of {name}: give the model's "
                    "roles=model.roles, or add a pattern to the `roles` of its family."
                )
            return len(order) + 1

        return {name: layer(name) for name in names}, len(order)

    def _inner(self, name: str) -> tuple[int, ...] | None:
        """Position of a parameter among the blocks."""
        if found := _first(self.blocks, name):
            return found[0], *found[1]
        if found := _first(self.between, name):
            return 0, *found[1], 0
        return None


def _first(patterns: tuple[str, ...], name: str) -> tuple[int, tuple[int, ...]] | None:
    """The number of the first pattern that matches, and its groups as numbers."""
    for i, pattern in enumerate(patterns):
        if match := _compiled(pattern).fullmatch(name):
            return i, tuple(int(group or 0) for group in match.groups())
    return None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


GENERAL = ParameterRoles(
    no_decay=(
        r"(?:.*/)?(?:bias|[qv]_bias|scale|gamma|freqs|\w*pos_embed|\w+_token)",
        r"(?:.*/)?relative_position_bias_table",
        r"(?:.*/)?(?:log_scale|zero_point)",  # learned steps of quantisation
    ),
    stem=(r"(?:patch_embed|stem|\w*pos_embed|\w+_token|norm_pre)(?:/.*)?",),
    blocks=(r"(?:(?:layers|stages)_(\d+)/)?blocks_(\d+)/.*",),
    between=(r"(?:layers|stages)_(\d+)/downsample/.*",),
    last=(r"norm/.*",),
    # Megatron's column-then-row split (Shoeybi et al., 2019, arXiv:1909.08053).
    tensor=(
        (r"attn\w*/([qkv](_proj)?|qk|kv|qkv|attn)/(kernel|bias)$", -2),  # [.., g, h]
        (r"attn\w*/[qv]_bias$", -2),  # [g, h]: heads
        (r"attn\w*/proj/kernel$", -3),  # [g, h, d]: heads
        (r"mlp\w*/fc1(_[gx])?/(kernel|bias)$", -1),  # [d, m], [m]: hidden units
        (r"mlp\w*/fc2/kernel$", -2),  # [m, d]: hidden units
    ),
    # Both ends of the network, all norms, softmax outputs, position networks, and
    # layers that only scale or pass on values.
    in_float=(
        r"patch_embed|stem|\w*head\w*|pre_logits",
        r"\w*norm\w*|bn\d*|se\w*|ls\d?\w*",
        r"rel_pos|rel_values|pos_proj|proj_l|proj_w",
        r"(Patch)?Dropout_\d+|DropPath_\d+",
    ),
)

"""Per-parameter factors of the optimiser step, decided from each name.

A parameter's name is its path, `blocks_3/attn/qkv/kernel`. Blocks stacked by scan
(`blocks/attn/qkv/kernel`, layers first) count as the parameters that they hold, so that
masks, layer-wise rates and rules do not depend on the layout.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.sharding import path_str


# Never decayed, whatever their rank, because Flax's attention biases are matrices.
NO_DECAY = frozenset(
    {
        "bias",
        "scale",
        "gamma",
        "pos_embed",
        "cls_token",
        "dist_token",
        "reg_token",
        "absolute_pos_embed",
        "relative_position_bias_table",
        "logit_scale",
        "q_bias",
        "v_bias",
        "freqs",
        "log_scale",  # learned steps of quantisation
        "zero_point",
    }
)
_NO_DECAY_MODULES = frozenset({"cpb_mlp"})  # SwinV2's position network
_NO_DECAY_PART = re.compile(r"stages_\d+/.*/rel_pos/")  # CoAtNet's
_STEM = re.compile(r"(patch_embed|stem|\w*pos_embed|\w+_token|norm_pre)(/|$)")
_BLOCK = re.compile(r"(?:(?:layers|stages|network)_(\d+)/)?blocks_(\d+)(?:/|$)")
_CLASS_BLOCK = re.compile(r"post_network_(\d+)(?:/|$)")  # VOLO's class blocks
_PATCHES = re.compile(r"network_(\d+)/proj(?:/|$)")  # between VOLO's stages
_TOKEN_BLOCK = re.compile(r"blocks_token_only_(\d+)(?:/|$)")  # CaiT's class blocks
_DOWNSAMPLE = re.compile(r"(?:layers|stages)_(\d+)/downsample(?:/|$)")
_RULE_KEYS = ("lr_mult", "wd_mult", "freeze")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One leaf, with one value of each factor per layer (a single one unless stacked).

    `inputs` and `outputs` are the axes of the leaf that a matrix product contracts and
    produces; the remaining axes hold separate matrices.
    """

    path: str
    shape: tuple[int, ...]
    stacked: bool
    names: tuple[str, ...]
    decay: np.ndarray
    lr: np.ndarray
    trainable: np.ndarray
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def hidden_matrix(self) -> bool:
        """Whether this is a kernel inside a block, neither embedding nor classifier."""
        name = self.names[0]
        blocks = (_BLOCK, _TOKEN_BLOCK, _CLASS_BLOCK)
        return bool(self.outputs) and any(block.match(name) for block in blocks)


class Row(NamedTuple):
    """One line of the log: the parameter and the factors of its step."""

    name: str
    shape: tuple[int, ...]
    decay: float
    lr: float


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


def _decays(name: str, ndim: int) -> bool:
    parts = name.split("/")
    named = parts[-1] in NO_DECAY or not _NO_DECAY_MODULES.isdisjoint(parts)
    return ndim > 1 and not named and not _NO_DECAY_PART.match(name)


def _place(name: str) -> tuple[int, int, int] | None:
    """Position of a layer among the blocks: part of the network, stage, block."""
    if block := _BLOCK.match(name):
        whole = name.startswith("stages_")  # timm's CoAtNet: a stage is one layer
        return 0, int(block[1] or 0), 0 if whole else int(block[2])
    if patches := _PATCHES.match(name):
        return 0, int(patches[1]), 0
    if block := _CLASS_BLOCK.match(name):
        return 1, int(block[1]), 0
    return None


def _layer_scales(names: Sequence[str], layer_decay: float) -> dict[str, float]:
    """layer_decay^(L + 1 - id): stem 0, blocks 1..L, norm L, head L + 1.

    CaiT's class-attention blocks come after the other blocks, and a stage of CoAtNet
    counts as one layer. Equivalent to timm's param_groups_layer_decay for ViT, DeiT,
    Swin, CoAtNet and VOLO (tested).
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay={layer_decay} must be over 0 and at most 1.")
    blocks = {name: place for name in names if (place := _place(name))}
    order = {block: i + 1 for i, block in enumerate(sorted(set(blocks.values())))}
    if not order:
        raise UserError("layer_decay needs a model with blocks (blocks_0, ...).")
    last = len(order)
    tokens = {name: int(m[1]) for name in names if (m := _TOKEN_BLOCK.match(name))}
    before_tokens = last - len(set(tokens.values()))

    def layer(name: str) -> int:
        if name in blocks:
            return order[blocks[name]]
        if name in tokens:  # after all other blocks
            return before_tokens + 1 + tokens[name]
        if down := _DOWNSAMPLE.match(name):
            return order.get((0, int(down[1]), 0), last)
        if _STEM.match(name):
            return 0
        return last if name.startswith("norm/") else last + 1

    return {name: layer_decay ** (last + 1 - layer(name)) for name in names}


def _checked_rule(rule: Any) -> tuple[str, Mapping[str, Any]]:
    try:
        pattern, values = rule
        re.compile(pattern)
        entries = dict(values)
    except (TypeError, ValueError, re.error) as error:
        raise UserError(
            f"optimizer rule {rule!r} is not (regex, dict(lr_mult=...)): {error}."
        ) from error
    for key, value in entries.items():
        if key not in _RULE_KEYS:
            raise UserError(f'rule key "{key}" is unknown.{nearest(key, _RULE_KEYS)}')
        if not isinstance(value, bool if key == "freeze" else int | float) or value < 0:
            raise UserError(f'rule "{pattern}": {key}={value!r} is not valid.')
    return pattern, entries


def _matched_rules(
    names: Sequence[str], rules: Sequence[Any]
) -> dict[str, Mapping[str, Any]]:
    """The single rule of each parameter that has one; every rule must match."""
    found: dict[str, Mapping[str, Any]] = {}
    owner: dict[str, str] = {}
    for pattern, values in map(_checked_rule, rules):
        hits = [name for name in names if re.fullmatch(pattern, name)]
        if not hits:
            raise UserError(
                f'optimizer rule "{pattern}" matches no parameter (it must match a '
                f'whole name such as "{names[0]}").'
            )
        twice = [name for name in hits if name in owner]
        if twice:
            raise UserError(
                f'optimizer rules "{owner[twice[0]]}" and "{pattern}" both match '
                f"{', '.join(twice[:5])}{' ...' if len(twice) > 5 else ''}: "
                "each parameter takes one rule."
            )
        for name in hits:
            owner[name], found[name] = pattern, values
    return found


def plan(
    params: Any, *, layer_decay: float | None = None, rules: Sequence[Any] = ()
) -> dict[str, Parameter]:
    """The factors of every leaf, by path.

    Weight decay applies to matrices that are not in `NO_DECAY` (timm's rule, but by
    name, because Flax's attention biases are not 1-d). `rules` are (regex, values): a
    regex for whole names, and the values `lr_mult` and `wd_mult`, which multiply the
    defaults, and `freeze`.

    Raises: UserError for a rule that matches nothing, two rules for one parameter,
      unknown rule keys, or a layer decay outside (0, 1].
    Equivalent to timm's param_groups_weight_decay (tested on DeiT, DeiT III and ViT).
    """
    leaves = {
        path_str(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    names = {path: _names(path, shape, leaves) for path, shape in leaves.items()}
    every = [name for group in names.values() for name in group]
    scales = dict.fromkeys(every, 1.0)
    if layer_decay not in (None, 1.0):
        scales = _layer_scales(every, layer_decay)
    special = _matched_rules(every, rules)

    table = {}
    for path, shape in leaves.items():
        stacked = names[path] != (path,)
        decays = _decays(path, len(shape) - stacked)
        own = [special.get(name, {}) for name in names[path]]
        trainable = np.array([not rule.get("freeze", False) for rule in own])
        inputs, outputs = _axes(path, len(shape), int(stacked))
        table[path] = Parameter(
            path=path,
            shape=shape,
            stacked=stacked,
            names=names[path],
            decay=np.array([decays * float(rule.get("wd_mult", 1)) for rule in own]),
            lr=trainable
            * np.array(
                [
                    scales[name] * rule.get("lr_mult", 1)
                    for name, rule in zip(names[path], own, strict=True)
                ]
            ),
            trainable=trainable,
            inputs=inputs,
            outputs=outputs,
        )
    return table


def describe(
    params: Any, *, layer_decay: float | None = None, rules: Sequence[Any] = ()
) -> list[Row]:
    """One row for each parameter: name, shape, decay factor, learning-rate factor."""
    table = plan(params, layer_decay=layer_decay, rules=rules)
    return [
        Row(name, leaf.shape[leaf.stacked :], float(leaf.decay[i]), float(leaf.lr[i]))
        for leaf in table.values()
        for i, name in enumerate(leaf.names)
    ]

"""Per-parameter factors of the optimiser step, decided from each name.

Names are those of `param_names`, so masks, layer-wise rates and rules do not depend on
whether blocks are stacked by scan.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.param_names import Parameter, parameters


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
class Factors(Parameter):
    """One leaf, with one value of each factor for each of its names."""

    decay: np.ndarray
    lr: np.ndarray
    trainable: np.ndarray

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


def factors(
    params: Any, *, layer_decay: float | None = None, rules: Sequence[Any] = ()
) -> dict[str, Factors]:
    """The factors of every leaf, by path.

    Weight decay applies to matrices that are not in `NO_DECAY` (timm's rule, but by
    name, because Flax's attention biases are not 1-d). `rules` are (regex, values): a
    regex for whole names, and the values `lr_mult` and `wd_mult`, which multiply the
    defaults, and `freeze`.

    Raises: UserError for a rule that matches nothing, two rules for one parameter,
      unknown rule keys, or a layer decay outside (0, 1].
    Equivalent to timm's param_groups_weight_decay (tested on DeiT, DeiT III and ViT).
    """
    leaves = parameters(params)
    every = [name for leaf in leaves.values() for name in leaf.names]
    scales = dict.fromkeys(every, 1.0)
    if layer_decay not in (None, 1.0):
        scales = _layer_scales(every, layer_decay)
    special = _matched_rules(every, rules)

    table = {}
    for path, leaf in leaves.items():
        decays = _decays(path, len(leaf.shape) - leaf.stacked)
        own = [special.get(name, {}) for name in leaf.names]
        trainable = np.array([not rule.get("freeze", False) for rule in own])
        rates = [
            scales[name] * rule.get("lr_mult", 1)
            for name, rule in zip(leaf.names, own, strict=True)
        ]
        table[path] = Factors(
            **vars(leaf),
            decay=np.array([decays * float(rule.get("wd_mult", 1)) for rule in own]),
            lr=trainable * np.array(rates),
            trainable=trainable,
        )
    return table


def describe(
    params: Any, *, layer_decay: float | None = None, rules: Sequence[Any] = ()
) -> list[Row]:
    """One row for each parameter: name, shape, decay factor, learning-rate factor."""
    table = factors(params, layer_decay=layer_decay, rules=rules)
    return [
        Row(name, leaf.shape[leaf.stacked :], float(leaf.decay[i]), float(leaf.lr[i]))
        for leaf in table.values()
        for i, name in enumerate(leaf.names)
    ]

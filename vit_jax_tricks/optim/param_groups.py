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
from vit_jax_tricks.param_names import (
    GENERAL,
    Parameter,
    ParameterRoles,
    parameters,
)


_RULE_KEYS = ("lr_mult", "wd_mult", "freeze")


@dataclasses.dataclass(frozen=True)
class Factors(Parameter):
    """One leaf, with one value of each factor for each of its names.

    `hidden_matrix` marks a kernel inside a block, neither embedding nor classifier.
    """

    decay: np.ndarray
    lr: np.ndarray
    trainable: np.ndarray
    hidden_matrix: bool


class Row(NamedTuple):
    """One line of the log: the parameter and the factors of its step."""

    name: str
    shape: tuple[int, ...]
    decay: float
    lr: float


def _layer_scales(
    names: Sequence[str], layer_decay: float, roles: ParameterRoles
) -> dict[str, float]:
    """layer_decay^(L + 1 - id): stem 0, blocks 1..L, norm L, head L + 1.

    Equivalent to timm's param_groups_layer_decay for ViT, DeiT, Swin, CoAtNet and VOLO
    (tested).
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay={layer_decay} must be over 0 and at most 1.")
    layers, last = roles.layers(names)
    return {name: layer_decay ** (last + 1 - layers[name]) for name in names}


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
    params: Any,
    *,
    layer_decay: float | None = None,
    rules: Sequence[Any] = (),
    roles: ParameterRoles = GENERAL,
) -> dict[str, Factors]:
    """The factors of every leaf, by path.

    `roles` says which parameters decay and in which layer each lies: `model.roles`. The
    default knows plain transformers and stages of blocks. Weight decay applies to
    matrices only (timm's rule, but by name, because Flax's attention biases are not
    1-d). `rules` are (regex, values): a regex for whole names, and the values `lr_mult`
    and `wd_mult`, which multiply the defaults, and `freeze`.

    Raises: UserError for a rule that matches nothing, two rules for one parameter,
      unknown rule keys, a layer decay outside (0, 1], or one for a parameter whose
      layer `roles` does not know.
    Equivalent to timm's param_groups_weight_decay (tested on DeiT, DeiT III and ViT).
    """
    leaves = parameters(params)
    every = [name for leaf in leaves.values() for name in leaf.names]
    scales = dict.fromkeys(every, 1.0)
    if layer_decay not in (None, 1.0):
        scales = _layer_scales(every, layer_decay, roles)
    special = _matched_rules(every, rules)

    table = {}
    for path, leaf in leaves.items():
        decays = roles.decays(leaf.names[0], len(leaf.shape) - leaf.stacked)
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
            hidden_matrix=bool(leaf.outputs) and roles.in_block(leaf.names[0]),
        )
    return table


def describe(
    params: Any,
    *,
    layer_decay: float | None = None,
    rules: Sequence[Any] = (),
    roles: ParameterRoles = GENERAL,
) -> list[Row]:
    """One row for each parameter: name, shape, decay factor, learning-rate factor."""
    table = factors(params, layer_decay=layer_decay, rules=rules, roles=roles)
    return [
        Row(name, leaf.shape[leaf.stacked :], float(leaf.decay[i]), float(leaf.lr[i]))
        for leaf in table.values()
        for i, name in enumerate(leaf.names)
    ]

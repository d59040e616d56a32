"""Quantisation rules: regular expressions on place names, each with a spec."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from vit_jax_tricks.compress.quant.spec import Spec
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.models.wrapper import roles_of
from vit_jax_tricks.param_names import GENERAL


Rule: TypeAlias = tuple[str, Spec | None]

WEIGHT = Spec("int8_narrow", per_channel=True)
ACTIVATION = Spec("int8")
# Places that stay in float in any model: both ends of the network, all norms, softmax
# outputs, position networks, and layers that only scale or pass on values.
SENSITIVE = GENERAL.float_places


def standard_rules(
    weight: Spec | None = WEIGHT, activation: Spec | None = ACTIVATION
) -> tuple[Rule, ...]:
    """`weight` for each kernel, `activation` for its input, except `SENSITIVE` places.

    The defaults are W8A8 as executed by TensorRT and ONNX Runtime: symmetric, int8
    weights from -127 to 127 for each output channel, one static step for each input.
    `standard_rules(Spec("int4_narrow", per_channel=True, observer="mse"))` is W4A8.
    With `activation=None` only weights are quantised. A model that has sensitive places
    of its own (`model.roles`) keeps them in float too.
    """
    return (
        (SENSITIVE, None),
        (r"(.*/)?kernel", weight),
        (r"(.*/)?input", activation),
        (r".*", None),
    )


def of_model(rules: Sequence[Rule], model: Any) -> list[Rule]:
    """The rules, with all sensitive places of a model where they have `SENSITIVE`.

    Raises: UserError for anything but rules.
    """
    check_rules(rules)
    own = roles_of(model).float_places
    return [(own if key == SENSITIVE else key, spec) for key, spec in rules]


def match(
    names: Mapping[str, tuple[str, ...]], rules: Sequence[Rule]
) -> dict[str, Spec]:
    """The spec of each quantised place; the first rule that matches decides.

    `names` are the names of the layers that a place covers: several for blocks stacked
    by scan, whose rules must agree. A rule matches whole names; None leaves a place in
    float.

    Raises: UserError for a rule that is not a pair, an invalid regex, a place without a
      rule, and stacked layers whose rules do not agree.
    """
    check_rules(rules)
    found = {}
    for path, group in names.items():
        specs = [_first(rules, name) for name in group]
        if any(spec != specs[0] for spec in specs):
            other = next(n for n, s in zip(group, specs, strict=True) if s != specs[0])
            raise UserError(
                f"{group[0]} and {other} have different rules but are stacked by scan: "
                "make the model with scan=False."
            )
        if specs[0] is not None:
            found[path] = specs[0]
    return found


def check_every_rule(names: Iterable[str], rules: Sequence[Rule]) -> None:
    """Raises UserError for the first rule that matches none of the names."""
    check_rules(rules)
    names = list(names)
    for pattern, _ in rules:
        if not any(_compiled(pattern).fullmatch(name) for name in names):
            raise UserError(
                f'quantisation rule "{pattern}" matches no place (it must match a whole'
                f" name).{nearest(pattern, names)}"
            )


def check_rules(rules: Sequence[Rule]) -> None:
    """Raises UserError for anything but pairs (regex, Spec or None)."""
    for rule in rules:
        pair = isinstance(rule, (tuple, list)) and len(rule) == 2
        if not (pair and isinstance(rule[0], str) and isinstance(rule[1], Spec | None)):
            raise UserError(
                f"{rule!r} is not a quantisation rule: expected a pair (regex, Spec or "
                "None); give a sequence of them, such as standard_rules()."
            )


def _first(rules: Sequence[Rule], name: str) -> Spec | None:
    for pattern, spec in rules:
        if _compiled(pattern).fullmatch(name):
            return spec
    raise UserError(
        f'no quantisation rule for "{name}": end the rules with (".*", None) to leave '
        "everything else in float."
    )


@functools.lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        message = f'quantisation rule "{pattern}" is not a regex: {error}.'
        raise UserError(message) from error

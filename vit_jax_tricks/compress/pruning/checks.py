"""Groups, gates, plans and scores that do not belong together are refused."""

from collections.abc import Collection, Mapping

import numpy as np

from vit_jax_tricks.checks import given
from vit_jax_tricks.compress.pruning.groups import Group, Plan
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.typing import Array, Float


UNITS = {"heads": "heads", "hidden": "hidden units"}
SHOWN = 9  # places of a plan


def check_groups(
    fn: str, groups: Mapping[str, Group], params: Mapping[str, Array]
) -> None:
    """Raises UserError for groups of another model than the parameters, by path.

    `fn` is the name of the caller.
    """
    for name, group in groups.items():
        for path, (axis, copies) in group.axes.items():
            if path not in params:
                raise UserError(
                    f"{fn}: groups has {name}, but the variables have no {path}; give "
                    "those of the model that find_groups got, made with scan=False."
                )
            shape, want = params[path].shape, copies * group.size
            if axis >= len(shape) or shape[axis] != want:
                raise UserError(
                    f"{fn}: groups has {group.size} {UNITS[group.kind]} in {name}, but "
                    f"{path} in the variables is {given(params[path])}; expected "
                    f"{want} along axis {axis}."
                )


def check_gates(
    fn: str, groups: Mapping[str, Group], gates: Mapping[str, Float[Array, "b s"]]
) -> None:
    """Raises UserError for gates of no group, or another number of them."""
    _check_names(fn, "gates", gates, groups)
    for name, gate in gates.items():
        _check_length(fn, f'gates["{name}"]', gate, groups[name])


def check_plan(fn: str, groups: Mapping[str, Group], plan: Plan) -> None:
    """Raises UserError for a plan of no group, or of places that a group lacks."""
    _check_names(fn, "plan", plan, groups)
    for name, kept in plan.items():
        places, group = np.asarray(kept), groups[name]
        if not different(places, group.size):
            mask = places.dtype == bool and places.shape == (group.size,)
            raise UserError(
                f'{fn}: plan["{name}"] is {shown(places)}; expected which of its '
                f"{group.size} {UNITS[group.kind]} stay, different whole numbers from "
                f"0 to {group.size - 1}{': type np.flatnonzero(mask)' if mask else ''}."
            )


def check_scores(
    fn: str,
    groups: Mapping[str, Group],
    scores: Mapping[str, Float[np.ndarray, "s"]],
    costs: Mapping[str, int],
) -> None:
    """Raises UserError unless every group, and no other, has its scores and a cost.

    Scores are finite numbers from 0 on.
    """
    for what, values in (("scores", scores), ("costs", costs)):
        _check_names(fn, what, values, groups)
        if lacking := [name for name in groups if name not in values]:
            raise UserError(f'{fn}: {what} has no "{lacking[0]}", which groups has.')
    for name, group in groups.items():
        values = np.asarray(scores[name])
        _check_length(fn, f'scores["{name}"]', values, group)
        if odd := values[~(np.isfinite(values) & (values >= 0))].tolist():
            raise UserError(
                f'{fn}: scores["{name}"] has {odd[0]}; expected finite numbers from 0 '
                "on."
            )


def _check_names(
    fn: str, what: str, values: Collection[str], groups: Mapping[str, Group]
) -> None:
    for name in values:
        if name not in groups:
            hint = nearest(name, groups)
            raise UserError(f'{fn}: {what} has "{name}", which is not a group.{hint}')


def _check_length(fn: str, what: str, value: Array, group: Group) -> None:
    if not value.shape or value.shape[-1] != group.size:
        raise UserError(
            f"{fn}: {what} is {given(value)}; expected {group.size} in the last axis, "
            f"one for each of its {UNITS[group.kind]}."
        )


def different(places: np.ndarray, size: int) -> bool:
    """Whether these are different places of `size`; none is fine."""
    if places.ndim != 1 or not places.size:
        return places.ndim == 1
    whole = np.issubdtype(places.dtype, np.integer)
    inside = np.isin(places, range(size)).all()
    return bool(whole and inside and len(np.unique(places)) == len(places))


def shown(places: np.ndarray) -> str:
    """Some places for a message, or what stands where they are expected."""
    if places.ndim != 1 or not np.issubdtype(places.dtype, np.integer):
        return given(places)
    more = ", ..." if len(places) > SHOWN else ""
    return f"({', '.join(map(str, places[:SHOWN]))}{more})"

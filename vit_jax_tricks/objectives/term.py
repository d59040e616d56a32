"""The form of an objective's terms, and their lookups and option checks."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.typing import Array, Float


Targets = Mapping[str, Array] | None


@runtime_checkable
class Term(Protocol):
    """The losses of a batch by one term, each a function of outputs and labels.

    Args:
      logits: the model's, in at least float32.
      aux: the model's other outputs, by name.
      labels: one-hot or soft.
      targets: by name, what else there is to learn from, such as a teacher's logits.
    """

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        aux: Mapping[str, Any],
        labels: Float[Array, "b k"],
        targets: Targets = None,
    ) -> Float[Array, "b"]: ...


def target(targets: Targets, name: str, term: str) -> Array:
    """Looks up a target that a term needs; raises UserError if it is missing."""
    if targets is None or name not in targets:
        have = ", ".join(sorted(targets or {})) or "none"
        raise UserError(
            f'config.loss.{term} needs targets["{name}"], and the step gives {have}.'
        )
    return targets[name]


def output(aux: Mapping[str, Any], name: str, term: str) -> Array:
    """Looks up a model output that a term needs; raises UserError if it is missing."""
    if name not in aux:
        have = ", ".join(sorted(aux)) or "none"
        raise UserError(
            f'config.loss.{term} needs aux["{name}"], and the model gives {have}.'
        )
    return aux[name]


def one_of(path: str, key: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError unless `value` is one of the `known` names."""
    if value not in (known := tuple(known)):
        raise UserError(f'{path}.{key}="{value}": unknown.{nearest(value, known)}')


def within(
    path: str,
    key: str,
    value: Number | None,
    *,
    most: Number | None = None,
    below: Number | None = None,
) -> None:
    """Raises UserError for a number below 0, above `most`, or not below `below`."""
    limit = f" <= {most}" if most is not None else f" < {below}" if below else ""
    if value is None:
        return
    high = (most is not None and value > most) or (below is not None and value >= below)
    if not value >= 0 or high:
        expected = f"0 <= {key}{limit}" if limit else f"{key} >= 0"
        raise UserError(f"{path}.{key}={value}: expected {expected}.")

"""The form of an objective's terms: what they read, lookups and option checks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.losses.inputs import Number
from vit_jax_tricks.objectives.targets import TARGETS
from vit_jax_tricks.typing import Array, Float, PRNGKeyArray


Outputs = Mapping[str, Any]
Forward = Callable[[Array | None, PRNGKeyArray], tuple[Array, Outputs]]
Key = Callable[[str], PRNGKeyArray]  # the name of a stream -> its key at this step
LabelLoss = Callable[[Array, Outputs], Array]  # (logits, aux) -> [b]


@runtime_checkable
class Term(Protocol):
    """The losses [b] of a batch; the names of the keyword arguments say what it reads.

    An argument with a default is optional: it is left out if nothing gives it. The
    names are those of `Readings`, of `TARGETS`, or of the model's outputs.
    """

    def __call__(self, *_: Any, **readings: Any) -> Float[Array, "b"]: ...


class Entry(NamedTuple):
    """A term of `config.loss`.

    Attributes:
      make: options -> the term; a class, so that what it reads is known beforehand.
      head: the weight, in `classification`, of the head that it takes over.
      cards: its pages in docs/tricks.
    """

    make: Callable[..., Term]
    cards: tuple[str, ...]
    head: str | None = None

    @property
    def reads(self) -> dict[str, bool]:
        """What the term reads, by name, and whether it can do without."""
        return _reads(self.make)

    @property
    def needs(self) -> frozenset[str]:
        """The targets among them, which a teacher or a label pack gives."""
        return frozenset(name for name in self.reads if name in TARGETS)


@functools.cache
def _reads(make: Callable[..., Term]) -> dict[str, bool]:
    _, *parameters = inspect.signature(make.__call__).parameters.values()
    return {p.name: p.default is not inspect.Parameter.empty for p in parameters}


@dataclasses.dataclass(frozen=True)
class Readings:
    """What a step offers to the terms of an objective. What no term reads is free.

    Attributes:
      logits: the model's, in at least float32.
      aux: its other outputs, by name.
      labels: one-hot or soft, [b, k].
      targets: by their names in `TARGETS`, what else there is to learn from.
      key: a stream's key by its name. A term that reads `key` gets its own,
        "loss.NAME", so that no term changes another's draws.
      step: int32 [].
      forward: another pass of the model in training, (images or None, key) -> (logits,
        aux). None stands for the images of the first pass.
      label_loss: the term `classification` of another pass, (logits, aux) -> [b]. The
        objective fills it in.
    """

    logits: Float[Array, "b k"]
    aux: Outputs
    labels: Float[Array, "b k"]
    targets: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    key: Key | None = None
    step: Array | None = None
    forward: Forward | None = None
    label_loss: LabelLoss | None = None

    def of(self, term: str, reads: Mapping[str, bool]) -> dict[str, Any]:
        """What a term reads; raises UserError if something is missing."""
        found = {}
        for name, optional in reads.items():
            value = self._find(name)
            if name == "key" and value is not None:
                value = value(f"loss.{term}")
            if value is not None:
                found[name] = value
            elif not optional:
                raise UserError(f"config.loss.{term} needs {self._lacking(name)}.")
        return found

    def _find(self, name: str) -> Any:
        if name in OFFERED:
            return getattr(self, name)
        return (self.targets if name in TARGETS else self.aux).get(name)

    def _lacking(self, name: str) -> str:
        if name in OFFERED:
            return f"{name}, which this step does not give"
        whose, given = "aux", self.aux
        if name in TARGETS:
            whose, given = "targets", self.targets
        who = "the step" if name in TARGETS else "the model"
        have = ", ".join(sorted(given)) or "none"
        return f'{whose}["{name}"], and {who} gives {have}'


OFFERED = frozenset(field.name for field in dataclasses.fields(Readings))
OFFERED -= {"aux", "targets"}


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

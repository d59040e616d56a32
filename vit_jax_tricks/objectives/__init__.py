"""Training objectives: a weighted sum of terms, each a function of outputs and labels.

A new trick is a new file here, its entry in `TERMS` and a key under `config.loss`; the
step and the loop stay unchanged.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.objectives.classification import classification
from vit_jax_tricks.objectives.distillation import distillation, token_distillation
from vit_jax_tricks.objectives.keep_ratio import keep_ratio
from vit_jax_tricks.objectives.term import Targets, Term, within
from vit_jax_tricks.objectives.token_labels import token_labels
from vit_jax_tricks.typing import Array, Float


class Entry(NamedTuple):
    """A term of `config.loss`.

    Attributes:
      make: options -> the term.
      needs: the teacher output that it learns from, by name.
      head: the weight, in `classification`, of the head that it takes over.
    """

    make: Callable[..., Term]
    needs: str | None = None
    head: str | None = None


TERMS = {
    "classification": Entry(classification),
    "distillation": Entry(distillation, "teacher_logits", "dist_weight"),
    "keep_ratio": Entry(keep_ratio),
    "token_distillation": Entry(token_distillation, "teacher_tokens"),
    "token_labels": Entry(token_labels, "token_labels", "dense_weight"),
}
NEEDS = {name: entry.needs for name, entry in TERMS.items() if entry.needs}


class Objective:
    """Weighted sum of the terms of `config.loss`.

    `needs` is the set of teacher outputs, by name, that the terms require. A call
    returns the total loss [b] and a dict with each term's unweighted loss [b].

    Raises:
      UserError: an unknown term or option, a negative weight, or two terms that would
        both train the same head.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]):
        self.terms: dict[str, tuple[float, Term]] = {}
        every = {key: dict(section) for key, section in sections.items()}
        for key, options in every.items():
            if key not in TERMS:
                hint = nearest(key, TERMS)
                raise UserError(f"config.loss.{key}: there is no such term.{hint}")
            weight = options.pop("weight", 1.0)
            within(f"config.loss.{key}", "weight", weight)
            self.terms[key] = (weight, _make(key, options))
        self.needs = frozenset(NEEDS[key] for key in self.terms if key in NEEDS)
        if not self.terms.get("classification", (0,))[0]:
            return
        for key in every:
            head = TERMS[key].head
            if head is None:
                continue
            default = inspect.signature(classification).parameters[head].default
            if every["classification"].get(head, default):
                raise UserError(
                    f"config.loss.{key} and config.loss.classification would train one "
                    f"head: set config.loss.classification.{head}=0."
                )

    def __call__(
        self,
        *,
        logits: Float[Array, "b k"],
        aux: dict,
        labels: Float[Array, "b k"],
        targets: Targets = None,
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        losses = {
            name: term(logits=logits, aux=aux, labels=labels, targets=targets)
            for name, (_, term) in self.terms.items()
        }
        total = jnp.zeros(logits.shape[:1], logits.dtype)
        for name, loss in losses.items():
            total = total + self.terms[name][0] * loss
        return total, losses


def _make(key: str, options: dict[str, Any]) -> Term:
    parameters = inspect.signature(TERMS[key].make).parameters
    for option in options:
        if option not in parameters:
            hint = nearest(option, [*parameters, "weight"])
            raise UserError(f"config.loss.{key}.{option}: there is no such key.{hint}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise UserError(f"config.loss.{key}.{name}: missing; give a value.")
    return TERMS[key].make(**options)

"""Training objectives: a weighted sum of terms, each a function of outputs and labels.

A term maps `(logits [b, k], aux, labels [b, k], targets)` to losses [b]; `targets`
holds, by name, whatever a term needs beyond the labels, such as a teacher's logits. A
new trick is a new file here and a key under `config.loss`; the step and the loop stay
unchanged.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.objectives.classification import classification
from vit_jax_tricks.objectives.distillation import distillation, token_distillation
from vit_jax_tricks.objectives.keep_ratio import keep_ratio
from vit_jax_tricks.objectives.term import Targets, within
from vit_jax_tricks.objectives.token_labels import token_labels
from vit_jax_tricks.typing import Array, Float


Term = Callable[..., Float[Array, "b"]]
TERMS: dict[str, Callable[..., Term]] = {
    "classification": classification,
    "distillation": distillation,
    "keep_ratio": keep_ratio,
    "token_distillation": token_distillation,
    "token_labels": token_labels,
}
HEADS = {  # terms that take over a head -> that head's weight in classification
    "distillation": "dist_weight",
    "token_labels": "dense_weight",
}

NEEDS = {  # term -> the teacher output it needs
    "distillation": "teacher_logits",
    "token_distillation": "teacher_tokens",
    "token_labels": "token_labels",
}


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
        for key in (key for key in HEADS if key in every):
            head = HEADS[key]
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
    parameters = inspect.signature(TERMS[key]).parameters
    for option in options:
        if option not in parameters:
            hint = nearest(option, [*parameters, "weight"])
            raise UserError(f"config.loss.{key}.{option}: there is no such key.{hint}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise UserError(f"config.loss.{key}.{name}: missing; give a value.")
    return TERMS[key](**options)
